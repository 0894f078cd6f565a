//! Test rig shared by the integration tests.
