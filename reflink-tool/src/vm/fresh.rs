//! What a new machine has to itself: identifiers, a UUID, MAC addresses.

use std::io::Read;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Where new numbers come from.
pub(super) enum Fresh {
    Random,
    /// Under `SOURCE_DATE_EPOCH`: from what is being made, so that the same clone of the same machine
    /// is the same, and any other one is not.
    Derived {
        seed: Sha256,
        next: u64,
    },
}

impl Fresh {
    /// Random numbers; with `SOURCE_DATE_EPOCH` in the environment, such as follow from it and from
    /// what names the new machine.
    pub(super) fn new(names: &[&[u8]]) -> Self {
        match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => Self::derived(&epoch, names),
            Err(_) => Self::Random,
        }
    }

    fn derived(epoch: &str, names: &[&[u8]]) -> Self {
        let mut seed = Sha256::new();
        for part in std::iter::once(&epoch.as_bytes()).chain(names) {
            seed.update((part.len() as u64).to_le_bytes());
            seed.update(part);
        }
        Self::Derived { seed, next: 0 }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self {
            Self::Random => std::fs::File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut bytes))
                .context("/dev/urandom")?,
            Self::Derived { seed, next } => {
                let sum = seed.clone().chain_update(next.to_le_bytes()).finalize();
                *next += 1;
                for (byte, from) in bytes.iter_mut().zip(sum) {
                    *byte = from;
                }
            }
        }
        Ok(bytes)
    }

    /// An identifier as the manager makes them; `kind` is that of the object.
    pub(super) fn id(&mut self, kind: &str) -> Result<String> {
        Ok(format!("0004fb0000{kind}0000{}", hex(&self.bytes::<8>()?)))
    }

    /// A random UUID, with dashes or without.
    pub(super) fn uuid(&mut self, dashes: bool) -> Result<String> {
        let mut bytes = self.bytes::<16>()?;
        bytes[6] = bytes[6] & 0x0F | 0x40;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        let digits = hex(&bytes);
        if !dashes {
            return Ok(digits);
        }
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
        let parts: Vec<&str> = parts
            .into_iter()
            .filter_map(|part| digits.get(part))
            .collect();
        Ok(parts.join("-"))
    }

    /// A MAC address of the same maker as the one of an interface; of Xen's when it has none.
    pub(super) fn mac(&mut self, vif: &str) -> Result<String> {
        let old = vif
            .split(',')
            .find_map(|part| part.trim().strip_prefix("mac="));
        let maker = old.and_then(|mac| mac.get(..8)).filter(|maker| {
            maker
                .split(':')
                .all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
        });
        let own: Vec<String> = self
            .bytes::<3>()?
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(format!("{}:{}", maker.unwrap_or("00:16:3e"), own.join(":")))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_depends_on_all_that_names_it() {
        let ids = |epoch: &str, names: &[&[u8]]| {
            let mut fresh = Fresh::derived(epoch, names);
            [fresh.id("06").unwrap(), fresh.id("06").unwrap()]
        };
        let one = ids("1", &[b"a", b"bc"]);
        assert_eq!(one, ids("1", &[b"a", b"bc"]));
        assert_ne!(one[0], one[1]);
        for other in [ids("2", &[b"a", b"bc"]), ids("1", &[b"ab", b"c"])] {
            assert!(!other.contains(&one[0]) && !other.contains(&one[1]));
        }
    }
}
