//! Problems of extended attributes.

use super::problems;

problems! {
    /// Problems of extended attributes.
    XattrProblem;

    /// The block with an inode's attributes, or a bucket of its tree, cannot be made out. The attributes in it are lost.
    BlockInvalid { why: String } = "XATTR_BLOCK_INVALID" Error ask
        "attributes cannot be read: {why}"
        => Trees "the block is given up, with the attributes in it";

    /// The number of attributes is more than there is room for.
    CountInvalid { found: u16, limit: u64 } = "XATTR_COUNT_INVALID" Error ask
        "{found} attributes are said to be here, but there is room for {limit}"
        => Trees "the attributes that are possible are counted";

    /// The type of an attribute is none that the format knows, or its name and value overlap those of another one.
    EntryInvalid { index: u64, why: &'static str } = "XATTR_ENTRY_INVALID" Error ask
        "attribute {index} is not possible: {why}"
        => Trees "the attribute is dropped";

    /// The name of an attribute is said to lie where no name can be.
    NameOffset { index: u64, found: u16 } = "XATTR_NAME_OFFSET_INVALID" Error ask
        "name of attribute {index} cannot be at byte {found}"
        => Trees "the attribute is dropped";

    /// The value of an attribute lies outside of the place for values, or its root is damaged.
    ValueInvalid { index: u64, why: &'static str } = "XATTR_VALUE_INVALID" Error ask
        "value of attribute {index} is damaged: {why}"
        => Trees "the attribute is dropped";

    /// Values of up to 80 bytes stand beside their names, larger ones in clusters of their own; this one is marked the wrong way.
    LocationInvalid { index: u64, size: u64 } = "XATTR_LOCATION_INVALID" Error ask
        "value of attribute {index}, {size} bytes, is marked as being in the wrong place"
        => Trees "the attribute is dropped";

    /// The hash of an attribute's name is wrong under either way to compute it: the attribute cannot be found.
    HashInvalid { index: u64, found: u32 } = "XATTR_HASH_INVALID" Error preen
        "hash of the name of attribute {index} is {found:#010x}, which no driver would look for"
        => Trees "the hash of the name is written";

    /// The start of the names and values in a bucket is not where the lowest one lies.
    FreeStart { found: u16, expected: u64 } = "XATTR_FREE_START_INVALID" Error preen
        "free room of the bucket is said to end at byte {found}, but the lowest name is at {expected}"
        => Trees "the place of the lowest name is written";

    /// The bytes of all names and values in a bucket are miscounted.
    ValueLen { found: u16, expected: u64 } = "XATTR_VALUE_LEN_INVALID" Error preen
        "names and values of the bucket are said to have {found} bytes, but have {expected}"
        => Trees "the bytes are counted again";

    /// The number of buckets of an extent does not fit it.
    BucketCount { found: u16, limit: u64 } = "XATTR_BUCKET_COUNT_INVALID" Error ask
        "{found} buckets are said to be in an extent that has room for {limit}"
        => Trees "the buckets that hold attributes are counted";

    /// Linux looks for the entries of a bucket in its first block only, and since 6.12 refuses the attributes of a bucket that has more; Linux 6.1 makes such buckets where blocks have 512 or 1024 bytes.
    BucketFull { found: u16, limit: u64 } = "X_XATTR_BUCKET_FULL" Note preen
        "the first block of a bucket of {found} attributes has room for {limit}: newer drivers cannot read them"
        => Trees "the attributes are laid out anew, in more buckets";

    /// Attributes of a tree must be sorted by the hash of their names, or lookups miss them.
    Order { index: u64, found: u32 } = "X_XATTR_ORDER" Error preen
        "attribute {index} with hash {found:#010x} is out of order"
        => Trees "the attributes are laid out anew, in order";

    /// An inode has attributes but does not say so, or says so on a volume without that feature. Drivers then ignore them.
    Flag { why: &'static str } = "X_XATTR_FLAG" Error preen
        "inode {why}"
        => Volume "the volume gets the feature, or the inode the mark";
}
