//! A transaction's payload, uncompressed.

use bytes::Bytes;
use tanist_replication::{Pages, PagesWriter};

pub(crate) fn run(input: &[u8]) {
    let Ok(pages) = Pages::parse(Bytes::copy_from_slice(input)) else { return };
    let mut writer = PagesWriter::new(pages.page_size(), 0);
    for (page, image) in pages.iter() {
        assert!((1..=pages.database_pages()).contains(&page), "page {page} of {}", pages.database_pages());
        writer.page(page).copy_from_slice(image);
    }
    assert_eq!(writer.finish(pages.database_pages()), input, "written again");
}
