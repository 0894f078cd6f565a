//! Input to `cowfs_tests::fuzz::volume`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cowfs_tests::fuzz::volume(data));
