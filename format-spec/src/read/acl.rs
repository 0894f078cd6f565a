//! Access control lists: the values of two attributes, and their usual text.
//!
//! On the volume an ACL is an array of entries without the header that getxattr(2) puts before
//! them.

use zerocopy::FromBytes;

use crate::layout::AclEntry;

/// Of whom an entry tells what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    use super::text;

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
