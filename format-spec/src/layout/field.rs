//! Field tables: the names, offsets and meanings of every structure, as data.
//!
//! The [`layout!`](crate::layout::layout) macro declares a structure of the format once and makes
//! from it the Rust type, compile-time proofs of its size and offsets, and a table of [`Field`]s.
//! The tables drive whatever must know fields by name: printing, setting, the all-bytes dump, JSON
//! and the damage recipes of the tests.

use std::fmt;

use zerocopy::big_endian as be;
use zerocopy::little_endian as le;

/// One field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name, spelled as in the format.
    pub name: &'static str,
    /// Byte offset from the start of the structure.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
    /// How the bytes are put together.
    pub encoding: Encoding,
    /// What they mean.
    pub kind: Kind,
}

/// How the bytes of a field are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// An unsigned integer, least significant byte first.
    Little,
    /// An unsigned integer, most significant byte first (journal).
    Big,
    /// A run of bytes.
    Bytes,
}

/// What a field means.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number to be read in decimal.
    Number,
    /// A number to be read in hexadecimal.
    Hex,
    /// A block number.
    Block,
    /// A set of flags, with the names of its bits.
    Flags(&'static [(u64, &'static str)]),
    /// Seconds since 1970.
    Time,
    /// A POSIX mode.
    Mode,
    /// Text, NUL padded.
    Text,
    /// A UUID.
    Uuid,
    /// Bytes without further structure.
    Raw,
    /// Reserved: zero unless something newer wrote it.
    Reserved,
    /// A structure of its own.
    Nested(&'static [Field]),
}

/// A type that may stand in a layout.
pub trait FieldType {
    /// How it is encoded.
    const ENCODING: Encoding;
    /// What it means unless the declaration says otherwise.
    const KIND: Kind;
}

macro_rules! field_types {
    ($($t:ty: $encoding:ident, $kind:expr;)*) => {
        $(impl FieldType for $t {
            const ENCODING: Encoding = Encoding::$encoding;
            const KIND: Kind = $kind;
        })*
    };
}

field_types! {
    u8: Little, Kind::Number;
    le::U16: Little, Kind::Number;
    le::U32: Little, Kind::Number;
    le::U64: Little, Kind::Number;
    be::U16: Big, Kind::Number;
    be::U32: Big, Kind::Number;
    be::U64: Big, Kind::Number;
}

impl<const N: usize> FieldType for [u8; N] {
    const ENCODING: Encoding = Encoding::Bytes;
    const KIND: Kind = Kind::Raw;
}

impl Field {
    /// The bytes of this field in a structure.
    #[must_use]
    pub fn bytes<'a>(&self, structure: &'a [u8]) -> &'a [u8] {
        structure
            .get(self.offset..self.offset + self.len)
            .unwrap_or_default()
    }

    /// The number in this field of a structure; `None` for runs of bytes.
    #[must_use]
    pub fn number(&self, structure: &[u8]) -> Option<u64> {
        let bytes = self.bytes(structure);
        let mut wide = [0u8; 8];
        match self.encoding {
            Encoding::Little if bytes.len() <= 8 => {
                wide[..bytes.len()].copy_from_slice(bytes);
                Some(u64::from_le_bytes(wide))
            }
            Encoding::Big if bytes.len() <= 8 => {
                wide[8 - bytes.len()..].copy_from_slice(bytes);
                Some(u64::from_be_bytes(wide))
            }
            _ => None,
        }
    }

    /// Stores a number in this field of a structure; false when it does not fit.
    pub fn set_number(&self, structure: &mut [u8], value: u64) -> bool {
        let Some(place) = structure.get_mut(self.offset..self.offset + self.len) else {
            return false;
        };
        if self.len > 8 || (self.len < 8 && value >> (8 * self.len) != 0) {
            return false;
        }
        match self.encoding {
            Encoding::Little => place.copy_from_slice(&value.to_le_bytes()[..self.len]),
            Encoding::Big => place.copy_from_slice(&value.to_be_bytes()[8 - self.len..]),
            Encoding::Bytes => return false,
        }
        true
    }
}

/// Writes a structure as `name=value` pairs, for `Debug`.
pub(crate) fn debug_fields(
    name: &str,
    fields: &[Field],
    structure: &[u8],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut out = f.debug_struct(name);
    for field in fields {
        match field.number(structure) {
            Some(number) => out.field(field.name, &number),
            None => out.field(
                field.name,
                &field.bytes(structure).escape_ascii().to_string(),
            ),
        };
    }
    out.finish()
}

/// Declares a structure of the format: see the [module](self).
macro_rules! layout {
    (
        $(#[$meta:meta])*
        $name:ident [$size:expr] {
            $( $(#[$fmeta:meta])* $offset:literal $field:ident : $type:ty $(= $kind:expr)? ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $type, )*
        }

        impl $name {
            /// The fields, in order; they cover every byte.
            pub const FIELDS: &'static [$crate::layout::Field] = &[
                $( $crate::layout::Field {
                    name: stringify!($field),
                    offset: $offset,
                    len: size_of::<$type>(),
                    encoding: <$type as $crate::layout::FieldType>::ENCODING,
                    kind: layout!(@kind $type $(, $kind)?),
                }, )*
            ];
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, "size");
            $( assert!(std::mem::offset_of!($name, $field) == $offset, "offset"); )*
        };

        impl $crate::layout::FieldType for $name {
            const ENCODING: $crate::layout::Encoding = $crate::layout::Encoding::Bytes;
            const KIND: $crate::layout::Kind = $crate::layout::Kind::Nested(Self::FIELDS);
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::layout::debug_fields(
                    stringify!($name), Self::FIELDS, zerocopy::IntoBytes::as_bytes(self), f,
                )
            }
        }
    };
    (@kind $type:ty) => { <$type as $crate::layout::FieldType>::KIND };
    (@kind $type:ty, $kind:expr) => { $kind };
}
pub(crate) use layout;
