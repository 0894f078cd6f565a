//! Library of the tool; the binary only calls it.
