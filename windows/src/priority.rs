//! This process before ordinary ones.

use std::io;

/// Lets this process go before ordinary ones when the processor is busy. What it starts doesn't inherit that.
///
/// # Errors
/// The system's.
pub fn come_first() -> io::Result<()> {
    winsafe::HPROCESS::GetCurrentProcess()
        .SetPriorityClass(winsafe::co::PRIORITY_CLASS::ABOVE_NORMAL)
        .map_err(|error| io::Error::from_raw_os_error(error.raw().cast_signed()))
}
