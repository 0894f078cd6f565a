//! Problems of the volume as a whole: superblocks, checks of blocks, system files, journals.

use super::problems;

problems! {
    /// Problems of the volume as a whole.
    VolumeProblem;

    /// The CRC32 of a metadata block does not match its contents, and no single flipped bit explains it.
    /// The kernel refuses such a block with an I/O error. What can still be made out of it is checked all the same.
    BadCrc { what: &'static str } = "BAD_CRC32" Error ask
        "checksum of the {what} does not match its contents"
        => Blocks "the block gets a checksum for what it holds, which is then checked like anything else";

    /// One bit of a metadata block is wrong on the device; the ECC tells which one, and readers correct it on the fly.
    /// Nothing is lost, but a second flipped bit in the same block would be. The repair writes the corrected block back.
    EccOneBit { what: &'static str, bit: u64 } = "X_ECC_ONE_BIT" Warning preen
        "bit {bit} of the {what} is flipped; the ECC corrects it"
        => Blocks "the bit is put right";

    /// The device failed to read a block that the volume needs. The check goes on without it.
    Unreadable { what: &'static str } = "X_UNREADABLE" Error ask
        "the {what} cannot be read from the device";

    /// The superblock and the cluster allocator disagree on the number of clusters, which happens when a resize was interrupted.
    SuperblockClusters { superblock: u32, bitmap: u32 } = "SUPERBLOCK_CLUSTERS" Error ask
        "superblock says that the volume has {superblock} clusters, the global bitmap {bitmap}"
        => Groups "the cluster allocator gets the number of the superblock, when its groups have as many";

    /// The first cluster group lies at a place that follows from the block and cluster sizes; the superblock names another one.
    FirstGroup { found: u64, expected: u64 } = "X_FIRST_GROUP" Error ask
        "superblock says that the first cluster group is block {found}, but it must be {expected}"
        => Volume "the superblock names the place that follows from the sizes";

    /// A tuning or resizing program was interrupted and left its mark in the superblock. Drivers refuse to mount the volume until the work was finished or undone.
    TunefsUnfinished { bits: u32 } = "X_TUNEFS_UNFINISHED" Error ask
        "a resize or tuning operation was interrupted (incompat bits {bits:#x})";

    /// The driver noted in the superblock that it met an error. This check tells what is wrong; the mark by itself is no damage.
    ErrorState {} = "X_ERROR_STATE" Note preen
        "the driver has marked the volume as having errors"
        => Space "the mark is taken away";

    /// The primary superblock cannot be used or differs from the backup through which the volume was opened. Drivers read the primary one only.
    RecoverBackup { why: String } = "RECOVER_BACKUP_SUPERBLOCK" Error ask
        "superblock should be restored from the backup in use: {why}"
        => Volume "the superblock is restored from the backup in use";

    /// A backup superblock cannot be used: it would not help when the primary one is lost.
    BackupInvalid { number: u32, why: String } = "X_BACKUP_SUPER_INVALID" Warning preen
        "backup superblock {number} is of no use: {why}"
        => Volume "the backup is written anew from the superblock";

    /// A backup superblock describes the volume differently from the primary one. Restoring it would damage the volume.
    BackupStale { number: u32, field: &'static str } = "X_BACKUP_SUPER_STALE" Warning preen
        "backup superblock {number} differs from the superblock in {field}"
        => Volume "the backup is written anew from the superblock";

    /// A file that drivers need is missing from the system directory, so that the volume cannot be mounted on some or all slots.
    SystemFileMissing { name: String } = "X_SYSTEM_FILE_MISSING" Error ask
        "the system directory has no {name}";

    /// Files that are deleted while in use wait in the orphan directory of a slot. Without it the volume cannot be mounted on that slot.
    OrphanDirMissing { slot: u16 } = "ORPHAN_DIR_MISSING" Error ask
        "the orphan directory of slot {slot} is missing";

    /// A system file is marked by flags that say what it is. Drivers refuse one whose flags are not those of its name.
    SystemFileKind { name: String, flags: u32 } = "X_SYSTEM_FILE_KIND" Error ask
        "flags {flags:#x} are not those of a {name}"
        => Volume "the inode is marked as what its name says";

    /// The journal of a slot cannot be used: its inode, its superblock or its log is damaged. A slot without a journal cannot be mounted.
    JournalInvalid { slot: u16, why: String } = "JOURNAL_FILE_INVALID" Error ask
        "journal of slot {slot} is of no use: {why}"
        => Volume "a journal that was left cleanly gets a new superblock and an empty log";

    /// A journal has feature bits that this program does not know, while others do not. This is most likely damage.
    JournalUnknownFeature { slot: u16, features: u32 } = "JOURNAL_UNKNOWN_FEATURE" Error ask
        "journal of slot {slot} has unknown features ({features:#x})"
        => Volume "the unknown features of a journal that was left cleanly are cleared";

    /// All journals of a volume must have the same features; one lacks some that others have.
    JournalMissingFeature { slot: u16, features: u32 } = "JOURNAL_MISSING_FEATURE" Error preen
        "journal of slot {slot} lacks features that others have ({features:#x})"
        => Volume "the journal gets the features of the others, if it was left cleanly";

    /// All journals of a volume must have the same size; one is smaller than the largest.
    JournalTooSmall { slot: u16, clusters: u32, largest: u32 } = "JOURNAL_TOO_SMALL" Error ask
        "journal of slot {slot} has {clusters} clusters, the largest one {largest}"
        => Trees "its clusters are counted again; a journal that is really smaller stays so";

    /// A journal holds transactions that are not in their places yet, because the volume was not unmounted cleanly. The volume was checked as it will be after they are replayed. The next mount does that.
    JournalPending { slot: u16, transactions: u32, blocks: u64 } = "X_JOURNAL_PENDING" Note preen
        "slot {slot} was not unmounted: {transactions} transactions ({blocks} blocks) wait in its journal; checked as after replay"
        => Blocks "the journal is replayed before anything else";

    /// A slot was not left cleanly although its journal is empty: the clusters that it held back and its orphans still wait to be recovered, which the next mount does.
    SlotUnrecovered { slot: u16 } = "X_SLOT_UNRECOVERED" Note preen
        "slot {slot} was not unmounted; its recovery is due at the next mount";

    /// The file that says which node holds which slot cannot be read or is too short. Drivers cannot mount the volume without it.
    SlotMapInvalid { why: String } = "X_SLOT_MAP_INVALID" Error ask
        "the slot map is of no use: {why}"
        => Volume "the slot map gets the size of its clusters";
}
