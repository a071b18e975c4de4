//! Edits of a file or payload that is too long to stand in an input: the input says what to change.

use crate::script::Script;

/// Changes `bytes` as the script says, to its end.
pub(crate) fn apply(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    while !script.is_empty() {
        let operation = script.byte();
        let at = usize::from(script.u16()) % (bytes.len() + 1);
        match operation % 4 {
            // Overwritten.
            0 | 1 => {
                let length = usize::from(script.byte() % 32);
                for (place, byte) in bytes[at..].iter_mut().zip(script.bytes(length)) {
                    *place = *byte;
                }
            }
            // One bit.
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (script.byte() % 8);
                }
            }
            // Cut, or a part of it given twice.
            _ if script.byte().is_multiple_of(2) => bytes.truncate(at),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again[..again.len().min(8192)]);
            }
        }
    }
}
