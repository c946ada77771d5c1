//! A label that is read is read again from what is printed of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::BackupLabel;

fuzz_target!(|text: &str| {
    if let Ok(label) = BackupLabel::parse(text) {
        assert_eq!(BackupLabel::parse(&label.to_string()), Ok(label));
    }
});
