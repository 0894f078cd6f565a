//! Input to `cowfs_tests::fuzz::archive`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cowfs_tests::fuzz::archive(data));
