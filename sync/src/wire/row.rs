//! Which bytes belong to what: the rule that no room above has to watch over again.

use repo::error::Result;

use super::codec::broken;
use super::message::Message;

/// The bytes that one direction of a connection still owes for what was announced last. Until they came, or were cut off,
/// nothing else may come but what belongs to no order: Ping, Pong and Fail.
#[derive(Clone, Debug, Default)]
pub struct Row {
    owed: u64,
}

impl Row {
    /// Bytes still to come.
    pub fn owed(&self) -> u64 {
        self.owed
    }

    /// Takes note of `Data` of `n` bytes.
    ///
    /// # Errors
    /// `Io` if fewer are owed.
    pub fn data(&mut self, n: usize) -> Result<()> {
        match self.owed.checked_sub(n as u64) {
            Some(left) => self.owed = left,
            None => return Err(broken(format_args!("{n} bytes where {} were announced", self.owed))),
        }
        Ok(())
    }

    /// Takes note of any other message.
    ///
    /// # Errors
    /// `Io` if it may not come now.
    pub fn message(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Ping(_) | Message::Pong(_) | Message::Fail(_) => {}
            Message::Data(bytes) => self.data(bytes.len())?,
            Message::Cut if self.owed > 0 => self.owed = 0,
            Message::Cut => return Err(broken("an end of bytes that were not announced")),
            other if self.owed > 0 => {
                return Err(broken(format_args!("a {} with {} bytes outstanding", other.name(), self.owed)));
            }
            other => self.owed = other.announces().unwrap_or(0),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Object;

    #[test]
    fn bytes_come_as_announced() {
        let put = |size, from| Message::Put { object: Object::Config, size, from };
        let mut row = Row::default();
        assert!(row.data(1).is_err() && row.message(&Message::Cut).is_err());
        row.message(&put(10, 4)).unwrap();
        assert_eq!(row.owed(), 6);
        assert!(row.message(&Message::Bye).is_err() && row.message(&put(1, 0)).is_err());
        row.data(2).unwrap();
        row.message(&Message::Ping(1)).unwrap();
        assert!(row.data(5).is_err());
        row.message(&Message::Data(vec![1; 4])).unwrap();
        row.message(&put(3, 3)).unwrap();
        row.message(&put(3, 0)).unwrap();
        row.message(&Message::Cut).unwrap();
        row.message(&Message::Bye).unwrap();
    }
}
