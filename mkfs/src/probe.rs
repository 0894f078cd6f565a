//! What a device holds already: signatures of filesystems, containers and partition tables.
//!
//! This guards against formatting the wrong device. It need not tell variants of a filesystem
//! apart; it must not miss one that is in use.

use cowfs_format::device::Device;

/// Something that was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is, with an article.
    pub what: &'static str,
    /// Byte offset of its signature.
    pub offset: u64,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (signature at byte {})", self.what, self.offset)
    }
}

/// Signatures at fixed places.
const SIGNATURES: &[(&str, u64, &[u8])] = &[
    ("an OCFS2 volume", 2 * 512, b"OCFSV2"),
    ("an OCFS2 volume", 2 * 1024, b"OCFSV2"),
    ("an OCFS2 volume", 2 * 2048, b"OCFSV2"),
    ("an OCFS2 volume", 2 * 4096, b"OCFSV2"),
    ("an OCFS (version 1) volume", 8, b"OracleCFS"),
    ("an ext2, ext3 or ext4 filesystem", 0x438, b"\x53\xEF"),
    ("an XFS filesystem", 0, b"XFSB"),
    ("a btrfs filesystem", 0x1_0040, b"_BHRfS_M"),
    (
        "a bcachefs filesystem",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
    ),
    (
        "a bcachefs filesystem",
        0x1018,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9",
    ),
    (
        "a bcache device",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    ("an F2FS filesystem", 0x400, b"\x10\x20\xF5\xF2"),
    ("a JFS filesystem", 0x8000, b"JFS1"),
    ("a ReiserFS filesystem", 0x1_0034, b"ReIsEr"),
    ("a NILFS2 filesystem", 0x406, b"\x34\x34"),
    ("a GFS2 filesystem", 0x1_0000, b"\x01\x16\x19\x70"),
    ("a ZFS pool", 0x2_0000, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    ("a ZFS pool", 0x2_0000, b"\x00\x00\x00\x00\x00\xba\xb1\x0c"),
    ("an APFS container", 0x20, b"NXSB"),
    ("an HFS+ filesystem", 0x400, b"H+\x00"),
    ("an HFS+ filesystem", 0x400, b"HX\x00"),
    ("a SquashFS image", 0, b"hsqs"),
    ("an EROFS image", 0x400, b"\xE2\xE1\xF5\xE0"),
    ("a NTFS filesystem", 3, b"NTFS    "),
    ("an exFAT filesystem", 3, b"EXFAT   "),
    ("a FAT filesystem", 0x36, b"FAT1"),
    ("a FAT filesystem", 0x52, b"FAT32   "),
    ("an ISO 9660 image", 0x8001, b"CD001"),
    ("a UDF filesystem", 0x8001, b"BEA01"),
    ("swap space", 4096 - 10, b"SWAPSPACE2"),
    ("swap space", 8192 - 10, b"SWAPSPACE2"),
    ("swap space", 16384 - 10, b"SWAPSPACE2"),
    ("swap space", 65536 - 10, b"SWAPSPACE2"),
    ("swap space", 4096 - 10, b"SWAP-SPACE"),
    ("hibernation data", 4096 - 10, b"S1SUSPEND"),
    ("a LUKS container", 0, b"LUKS\xba\xbe"),
    ("a LUKS container (second header)", 0x4000, b"SKUL\xba\xbe"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 1024, b"LABELONE"),
    ("an LVM physical volume", 1536, b"LABELONE"),
    ("a RAID member (md)", 0, b"\xFC\x4E\x2B\xA9"),
    ("a RAID member (md)", 4096, b"\xFC\x4E\x2B\xA9"),
    ("a Ceph BlueStore device", 0, b"bluestore block device"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
];

/// Everything recognised on a device, in the order of the table above; each kind once.
#[must_use]
pub fn probe(device: &dyn Device) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for &(what, offset, signature) in SIGNATURES {
        if holds(device, offset, signature) && !found.iter().any(|f| f.what == what) {
            found.push(Found { what, offset });
        }
    }
    for offset in at_the_end(device.size()) {
        let what = "a RAID member (md)";
        if holds(device, offset, b"\xFC\x4E\x2B\xA9") && !found.iter().any(|f| f.what == what) {
            found.push(Found { what, offset });
        }
    }
    for sector in [512, 4096] {
        let what = "a GPT partition table (the copy at the end)";
        let offset = device.size().saturating_sub(sector);
        if found.is_empty() && holds(device, offset, b"EFI PART") {
            found.push(Found { what, offset });
        }
    }
    // A boot sector's mark is also in FAT and NTFS, which say so themselves.
    if found.is_empty() && has_partitions(device) {
        found.push(Found {
            what: "an MBR partition table",
            offset: 0x1FE,
        });
    }
    found
}

/// Where RAID members with their superblock at the end have it.
fn at_the_end(size: u64) -> [u64; 2] {
    let old = (size & !0xFFFF).saturating_sub(0x1_0000);
    let new = (size & !0x1FFF).saturating_sub(0x2000) & !0xFFF;
    [old, new]
}

fn holds(device: &dyn Device, offset: u64, signature: &[u8]) -> bool {
    let mut bytes = [0; 32];
    let Some(place) = bytes.get_mut(..signature.len()) else {
        return false;
    };
    let end = offset.checked_add(signature.len() as u64);
    end.is_some_and(|end| end <= device.size())
        && device.read_at(offset, place).is_ok()
        && place == signature
}

/// Whether the first sector holds a table with a partition in it.
fn has_partitions(device: &dyn Device) -> bool {
    let mut sector = [0; 512];
    if device.read_at(0, &mut sector).is_err() || sector[0x1FE..] != [0x55, 0xAA] {
        return false;
    }
    let entries = sector[0x1BE..0x1FE].as_chunks::<16>().0;
    let sane = entries.iter().all(|entry| entry[0] & 0x7F == 0);
    // A type, and a length in sectors.
    sane && entries
        .iter()
        .any(|entry| entry[4] != 0 && entry[12..16] != [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowfs_format::device::{DeviceMut, MemDevice};

    #[test]
    fn every_signature_is_found_and_zeros_hold_nothing() {
        for &(what, offset, signature) in SIGNATURES {
            let device = MemDevice::new(vec![0; 1 << 18]);
            assert_eq!(probe(&device), []);
            device.write_at(offset, signature).unwrap();
            let found = probe(&device);
            assert!(found.contains(&Found { what, offset }), "{what}: {found:?}");
        }
    }

    #[test]
    fn partition_tables_are_found() {
        let device = MemDevice::new(vec![0; 1 << 20]);
        device.write_at(0x1FE, &[0x55, 0xAA]).unwrap();
        assert_eq!(probe(&device), [], "a mark without partitions");
        let entry = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
        device.write_at(0x1BE, &entry).unwrap();
        assert_eq!(probe(&device)[0].what, "an MBR partition table");
        let device = MemDevice::new(vec![0; 1 << 20]);
        device.write_at((1 << 20) - 512, b"EFI PART").unwrap();
        assert_eq!(probe(&device)[0].offset, (1 << 20) - 512);
    }

    #[test]
    fn short_devices_are_no_trouble() {
        assert_eq!(probe(&MemDevice::new(vec![])), []);
        assert_eq!(probe(&MemDevice::new(vec![0x55; 700])), []);
    }
}
