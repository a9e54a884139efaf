//! Access control lists as the text that tar archives hold, with numbers for users and groups.

/// The list that an attribute `system.posix_acl_*` holds; none if it is none.
pub fn text(attribute: &[u8]) -> Option<String> {
    const VERSION: u32 = 2;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
    let (version, entries) = attribute.split_at_checked(4)?;
    if number(version)? != VERSION || entries.is_empty() {
        return None;
    }
    let entries = entries.chunks(8).map(|entry| {
        let (tag, permissions, id) = (entry.get(..2)?, entry.get(2..4)?, number(entry.get(4..)?)?);
        let who = match u16::from_le_bytes(tag.try_into().ok()?) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bits = u16::from_le_bytes(permissions.try_into().ok()?);
        let letters = [(4, 'r'), (2, 'w'), (1, 'x')].map(|(bit, letter)| if bits & bit != 0 { letter } else { '-' });
        Some(format!("{who}:{}", letters.iter().collect::<String>()))
    });
    entries.collect::<Option<Vec<_>>>().map(|list| list.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_text() {
        let mut list = vec![2, 0, 0, 0];
        for (tag, bits, id) in
            [(1u16, 6u16, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (8, 0, 7), (16, 5, u32::MAX), (32, 1, u32::MAX)]
        {
            list.extend(tag.to_le_bytes().into_iter().chain(bits.to_le_bytes()).chain(id.to_le_bytes()));
        }
        let wanted = "user::rw-,user:1000:rwx,group::r--,group:7:---,mask::r-x,other::--x";
        assert_eq!(text(&list).as_deref(), Some(wanted));
        for bad in
            [&list[..list.len() - 1], &list[..4], &list[..3], &[3, 0, 0, 0], &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(text(bad), None);
        }
    }
}
