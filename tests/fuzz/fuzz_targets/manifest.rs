//! Input to `cowfs_tests::fuzz::manifest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cowfs_tests::fuzz::manifest(data));
