//! Access control lists: the values of two attributes, and their usual text.
//!
//! On the volume an ACL is an array of entries without the header that getxattr(2) puts before
//! them.

use zerocopy::FromBytes;

use crate::layout::AclEntry;

/// Of whom an entry tells what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AclTag {
    /// The owner.
    UserObj,
    /// A user.
    User(u32),
    /// The group of the file.
    GroupObj,
    /// A group.
    Group(u32),
    /// The most that anyone but the owner and the others may do.
    Mask,
    /// The others.
    Other,
}

/// The entries of an ACL with their permissions (4 read, 2 write, 1 execute); `None` when the value
/// is no ACL.
#[must_use]
pub fn entries(value: &[u8]) -> Option<Vec<(AclTag, u16)>> {
    let entries = <[AclEntry]>::ref_from_bytes(value).ok()?;
    let entries = entries.iter().map(|entry| {
        let id = entry.e_id.get();
        let tag = match entry.e_tag.get() {
            0x01 => AclTag::UserObj,
            0x02 => AclTag::User(id),
            0x04 => AclTag::GroupObj,
            0x08 => AclTag::Group(id),
            0x10 => AclTag::Mask,
            0x20 => AclTag::Other,
            _ => return None,
        };
        let perm = entry.e_perm.get();
        (perm <= 7).then_some((tag, perm))
    });
    entries.collect()
}

/// The value of an ACL with these entries, in the order that Linux demands.
#[must_use]
pub fn stored(entries: &[(AclTag, u16)]) -> Vec<u8> {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable();
    let value = sorted.into_iter().flat_map(|(tag, perm)| {
        let (tag, id) = match tag {
            AclTag::UserObj => (0x01, u32::MAX),
            AclTag::User(id) => (0x02, id),
            AclTag::GroupObj => (0x04, u32::MAX),
            AclTag::Group(id) => (0x08, id),
            AclTag::Mask => (0x10, u32::MAX),
            AclTag::Other => (0x20, u32::MAX),
        };
        let entry = AclEntry {
            e_tag: tag.into(),
            e_perm: perm.into(),
            e_id: id.into(),
        };
        zerocopy::IntoBytes::as_bytes(&entry).to_vec()
    });
    value.collect()
}

/// The ACL that says what a mode says.
#[must_use]
pub fn of_mode(mode: u16) -> Vec<(AclTag, u16)> {
    vec![
        (AclTag::UserObj, mode >> 6 & 7),
        (AclTag::GroupObj, mode >> 3 & 7),
        (AclTag::Other, mode & 7),
    ]
}

/// The permission bits that a file with an access ACL has: the mask stands for the group. `None`
/// when it is no complete ACL: without an entry for the owner, the group or the others, with
/// anything twice, or without a mask though it names someone.
#[must_use]
pub fn mode_bits(entries: &[(AclTag, u16)]) -> Option<u16> {
    let mut tags: Vec<AclTag> = entries.iter().map(|(tag, _)| *tag).collect();
    tags.sort_unstable();
    if tags.windows(2).any(|pair| pair[0] == pair[1]) {
        return None;
    }
    let of = |wanted| entries.iter().find(|(tag, _)| *tag == wanted);
    let (user, group) = (of(AclTag::UserObj)?.1, of(AclTag::GroupObj)?.1);
    let (mask, other) = (of(AclTag::Mask), of(AclTag::Other)?.1);
    let named = tags
        .iter()
        .any(|tag| matches!(tag, AclTag::User(_) | AclTag::Group(_)));
    if mask.is_none() && named {
        return None;
    }
    Some(user << 6 | mask.map_or(group, |(_, perm)| *perm) << 3 | other)
}

/// Takes away what a mode does not grant: from the owner, the others, and the mask or, without one,
/// the group.
pub fn mask_by_mode(entries: &mut [(AclTag, u16)], mode: u16) {
    let masked = entries.iter().any(|(tag, _)| *tag == AclTag::Mask);
    for (tag, perm) in entries {
        *perm &= match tag {
            AclTag::UserObj => mode >> 6,
            AclTag::Mask => mode >> 3,
            AclTag::GroupObj if !masked => mode >> 3,
            AclTag::Other => mode,
            _ => continue,
        };
    }
}

/// An ACL in the form of setfacl(1), with numbers for users and groups:
/// `user::rw-,user:1000:rw-,group::r--,mask::rwx,other::r--`. `None` when the value is no ACL.
#[must_use]
pub fn text(value: &[u8]) -> Option<String> {
    let words: Vec<String> = entries(value)?
        .into_iter()
        .map(|(tag, perm)| {
            let who = match tag {
                AclTag::UserObj => "user:".to_owned(),
                AclTag::User(id) => format!("user:{id}"),
                AclTag::GroupObj => "group:".to_owned(),
                AclTag::Group(id) => format!("group:{id}"),
                AclTag::Mask => "mask:".to_owned(),
                AclTag::Other => "other:".to_owned(),
            };
            let bit = |bit: u16, letter: char| if perm & bit != 0 { letter } else { '-' };
            format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
        })
        .collect();
    Some(words.join(","))
}

/// The value of an ACL in text form, entries separated by commas or lines; a fourth field, in which
/// some archivers repeat the number of a user or group given by name, counts for the name. Other
/// names are looked up: `number` is asked for the number of a user (true) or group. `None` when it
/// is no ACL, or names someone without a number.
#[must_use]
pub fn parse(text: &str, number: &dyn Fn(bool, &str) -> Option<u32>) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    let words = text.split([',', '\n']).map(str::trim);
    for word in words.filter(|word| !word.is_empty() && !word.starts_with('#')) {
        let fields: Vec<&str> = word.split(':').collect();
        let [tag, who, perm, rest @ ..] = fields.as_slice() else {
            return None;
        };
        let user = tag.starts_with('u');
        let id: Option<u32> = rest.first().unwrap_or(who).trim().parse().ok();
        let id = id.or_else(|| number(user, who));
        let (tag, id) = match (*tag, who.is_empty()) {
            ("user" | "u", true) => (0x01, None),
            ("user" | "u", false) => (0x02, Some(id?)),
            ("group" | "g", true) => (0x04, None),
            ("group" | "g", false) => (0x08, Some(id?)),
            ("mask" | "m", true) => (0x10, None),
            ("other" | "o", true) => (0x20, None),
            _ => return None,
        };
        let mut bits = 0u16;
        for letter in perm.chars() {
            bits |= match letter {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => return None,
            };
        }
        entries.push((tag, id.unwrap_or(u32::MAX), bits));
    }
    entries.sort_unstable();
    let value = entries.into_iter().flat_map(|(tag, id, bits)| {
        let entry = AclEntry {
            e_tag: tag.into(),
            e_perm: bits.into(),
            e_id: id.into(),
        };
        zerocopy::IntoBytes::as_bytes(&entry).to_vec()
    });
    Some(value.collect())
}

/// Whether an attribute of this name holds an ACL.
#[must_use]
pub fn is_acl(name: &[u8]) -> bool {
    matches!(
        name,
        b"system.posix_acl_access" | b"system.posix_acl_default"
    )
}

/// The value that the driver shows for the one that is stored: programs expect the version of the
/// form (2, in 32 bits) before the entries, the volume does not keep it.
#[must_use]
pub fn shown_value(stored: &[u8]) -> Vec<u8> {
    [&2u32.to_le_bytes(), stored].concat()
}

#[cfg(test)]
mod tests {
    use super::{AclTag, entries, mask_by_mode, mode_bits, of_mode, parse, stored, text};

    #[test]
    fn acls_and_modes_follow_each_other() {
        let acl = |words: &str| entries(&parse(words, &|_, _| None).unwrap()).unwrap();
        let whole = acl("user::rwx,user:7:rw-,group::r--,mask::rw-,other::--x");
        // acl(5): the mask stands where the group's bits are.
        assert_eq!(mode_bits(&whole), Some(0o761));
        assert_eq!(entries(&stored(&whole)).unwrap(), whole);
        assert_eq!(mode_bits(&of_mode(0o4751)), Some(0o751));
        for bad in [
            "user::rwx,group::r--",
            "user::rwx,user:7:rw-,group::r--,other::---",
            "user::rwx,user::r--,group::r--,other::---",
        ] {
            assert_eq!(mode_bits(&acl(bad)), None, "{bad}");
        }
        let mut made = whole;
        mask_by_mode(&mut made, 0o640);
        let as_linux = acl("user::rw-,user:7:rw-,group::r--,mask::r--,other::---");
        assert_eq!(made, as_linux);
        assert!(made.contains(&(AclTag::User(7), 6)));
    }

    #[test]
    fn acls_are_told_in_words() {
        // An ACL as the driver wrote it.
        let value: Vec<u8> = [
            "01000600ffffffff",
            "0200050064000000",
            "04000400ffffffff",
            "10000700ffffffff",
            "20000400ffffffff",
        ]
        .concat()
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
        assert_eq!(
            text(&value).unwrap(),
            "user::rw-,user:100:r-x,group::r--,mask::rwx,other::r--"
        );
        assert_eq!(text(&[]).unwrap(), "");
        assert_eq!(text(&value[..39]), None);
        assert_eq!(text(&[3, 0, 6, 0, 0, 0, 0, 0]), None);
        assert_eq!(text(&[1, 0, 8, 0, 0, 0, 0, 0]), None);
    }
}
