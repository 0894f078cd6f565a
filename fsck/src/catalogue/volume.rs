//! Problems of the volume as a whole: superblocks, checks of blocks, system files, journals.

use super::problems;

problems! {
    /// Problems of the volume as a whole.
    VolumeProblem;

    /// The CRC32 of a metadata block does not match its contents, and neither do one or two flipped bits nor a run of 16 explain it.
    /// The kernel refuses such a block with an I/O error. What can still be made out of it is checked all the same.
    BadCrc { what: &'static str } = "BAD_CRC32" Error ask
        "checksum of the {what} does not match its contents"
        => Blocks "the block gets a checksum for what it holds, which is then checked like anything else";

    /// One bit of a metadata block is wrong on the device; the ECC tells which one, and readers correct it on the fly.
    /// Nothing is lost, but a second flipped bit in the same block would be. The repair writes the corrected block back.
    EccOneBit { what: &'static str, bit: u64 } = "X_ECC_ONE_BIT" Warning preen
        "bit {bit} of the {what} is flipped; the ECC corrects it"
        => Blocks "the bit is put right";

    /// Two bits of a metadata block are wrong on the device. The ECC is made for one, and drivers refuse the block with an I/O error; but CRC32 and
    /// parity together tell which two they are when only one pair explains them and the block then makes sense. It was checked as it was before.
    EccTwoBits { what: &'static str, bits: Vec<u64> } = "X_ECC_TWO_BITS" Error preen
        "bits {bits:?} of the {what} are flipped; CRC and ECC together tell which"
        => Blocks "the two bits are put right";

    /// Several bits of a metadata block are wrong on the device, all within 16 bits, as when two bytes beside each other are lost. Drivers refuse the block
    /// with an I/O error; but CRC32 and parity together tell which bits they are when only one run explains them and the block then makes sense. It was checked as it was before.
    EccBurst { what: &'static str, bits: Vec<u64> } = "X_ECC_BURST" Error preen
        "bits {bits:?} of the {what} are flipped; CRC and ECC together tell which"
        => Blocks "the bits are put right";

    /// A bit of the check of a metadata block is wrong on the device. The contents are right, which the parity tells, but drivers refuse the block with an I/O error.
    EccOfCheck { what: &'static str, bit: u64 } = "X_ECC_OF_CHECK" Error preen
        "bit {bit} of the {what} is flipped, in its check; the contents are right"
        => Blocks "the bit is put right";

    /// The CRC32 of a metadata block matches, so that drivers take it, but its parity word would not lead to the bit when one flips.
    EccParity { what: &'static str } = "X_ECC_PARITY" Warning preen
        "the parity word of the {what} does not match its contents, its checksum does"
        => Blocks "the block gets a new check";

    /// Bytes that the format keeps for later must be zero, or a newer driver may take them for something. This one has no meaning yet.
    Reserved { field: &'static str } = "X_RESERVED" Warning preen
        "reserved field {field} is not zero"
        => Blocks "the reserved fields of the block are cleared";

    /// The device failed to read a block that the volume needs. The check goes on without it.
    Unreadable { what: &'static str } = "X_UNREADABLE" Error ask
        "the {what} cannot be read from the device"
        => Blocks "the block is written over, so that the device gives it another place: what can still be read of it is kept";

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
        "a resize or tuning operation was interrupted (incompat bits {bits:#x})"
        => Slots "the marks are taken away, once everything else is put right";

    /// The driver noted in the superblock that it met an error. This check tells what is wrong; the mark by itself is no damage.
    ErrorState {} = "X_ERROR_STATE" Note preen
        "the driver has marked the volume as having errors"
        => Space "the mark is taken away";

    /// The primary superblock cannot be used or differs from the backup through which the volume was opened. Drivers read the primary one only.
    RecoverBackup { why: String } = "RECOVER_BACKUP_SUPERBLOCK" Error ask
        "superblock should be restored from the backup in use: {why}"
        => Volume "the superblock is restored from the backup in use";

    /// The first inodes of the volume and the groups of its clusters agree on a generation of the volume, and the superblock has another one, as after an earlier superblock was put back. By that one nothing on the volume is of the volume: nothing else was looked at.
    SuperblockGen { found: u32, expected: u32 } = "X_SUPERBLOCK_GEN" Error ask
        "superblock has generation {found:#010x}, and everything else {expected:#010x}"
        => Blocks "the superblock gets the generation of everything else";

    /// There is neither a superblock nor a backup that can be used. A superblock was made from what the rest of the volume says: sizes from the allocators, the UUID from the journals, features from what uses them. What nothing tells is guessed.
    SuperblockLost { guessed: String } = "X_SUPERBLOCK_LOST" Error ask
        "the superblock is lost, and there is no backup; guessed are: {guessed}"
        => Volume "a superblock is made from what the rest of the volume says";

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
        "the system directory has no {name}"
        => Volume "the inode that was it, by its place and its contents, gets the name again; where there is none, an inode is made";

    /// The inode of the system directory is damaged beyond use, so that nothing of the volume can be found: not its allocators, its journals or its bitmap.
    /// The inodes of the system files lie one behind the other, in a fixed order, and tell by their contents what they are.
    SystemDirLost { why: String } = "X_SYSTEM_DIR_LOST" Error ask
        "the inode of the system directory is lost: it {why}"
        => Volume "the directory is made anew, from its old blocks or from the inodes that it named";

    /// A block of the system directory holds no entries that can be made out. System files whose names stood in it cannot be found.
    SystemDirBlock { why: String } = "X_SYSTEM_DIR_BLOCK" Error ask
        "a block of the system directory cannot be used: {why}"
        => Volume "what can be made out stays, and the files whose names were lost get them again";

    /// The inode of a system file is damaged beyond use. What the file held follows from the rest of the volume, or is nothing that is missed.
    SystemFileLost { name: String, why: String } = "X_SYSTEM_FILE_LOST" Error ask
        "the inode of {name} is lost: it {why}"
        => Volume "the inode is made anew; its contents follow from the rest of the volume";

    /// Files that are deleted while in use wait in the orphan directory of a slot. Without it the volume cannot be mounted on that slot.
    OrphanDirMissing { slot: u16 } = "ORPHAN_DIR_MISSING" Error ask
        "the orphan directory of slot {slot} is missing"
        => Volume "the directory that was it, by its place, gets the name again; where there is none, one is made";

    /// A system file is marked by flags that say what it is. Drivers refuse one whose flags are not those of its name.
    SystemFileKind { name: String, flags: u32 } = "X_SYSTEM_FILE_KIND" Error ask
        "flags {flags:#x} are not those of a {name}"
        => Volume "the inode is marked as what its name says";

    /// The journal of a slot cannot be used: its inode, its superblock or its log is damaged. A slot without a journal cannot be mounted.
    JournalInvalid { slot: u16, why: String } = "JOURNAL_FILE_INVALID" Error ask
        "journal of slot {slot} is of no use: {why}"
        => System "a journal that was left cleanly gets a new superblock and an empty log, and clusters where it has none; one that was not, only with --reset-journal, and its transactions are lost";

    /// A journal has feature bits that this program does not know, while others do not. This is most likely damage.
    JournalUnknownFeature { slot: u16, features: u32 } = "JOURNAL_UNKNOWN_FEATURE" Error ask
        "journal of slot {slot} has unknown features ({features:#x})"
        => System "the unknown features of a journal that was left cleanly are cleared; of one that was not, only with --reset-journal, and its transactions are lost";

    /// All journals of a volume must have the same features; one lacks some that others have.
    JournalMissingFeature { slot: u16, features: u32 } = "JOURNAL_MISSING_FEATURE" Error preen
        "journal of slot {slot} lacks features that others have ({features:#x})"
        => System "the journal gets the features of the others, if it was left cleanly";

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
        "slot {slot} was not unmounted; its recovery is due at the next mount"
        => Slots "what the slot held back is given back, as the next mount would do";

    /// The file that says which node holds which slot cannot be read or is too short. Drivers cannot mount the volume without it.
    SlotMapInvalid { why: String } = "X_SLOT_MAP_INVALID" Error ask
        "the slot map is of no use: {why}"
        => System "the slot map gets the size of its clusters, or clusters in which all slots are free";

    /// The slot map says that a node has the volume mounted in a slot, but the journal of that slot was left cleanly: no node has. The slot cannot be used, and other programs refuse to write the volume.
    SlotHeld { slot: u16, node: u32 } = "X_SLOT_HELD" Warning preen
        "the slot map says that node {node} holds slot {slot}, which was left cleanly"
        => System "the slot is free again";

    /// A quota file cannot be read, or its tree is damaged. Drivers cannot account for usage with it, and do not mount the volume.
    QuotaInvalid { name: String, why: String } = "X_QUOTA_INVALID" Error ask
        "{name} is of no use: {why}"
        => System "the file is written anew: limits that can be read are kept, usage is counted";

    /// A quota file states another usage of a user or group than its files have. Limits are kept by what the file states.
    QuotaUsage { who: &'static str, id: u32, bytes: u64, inodes: u64, expected_bytes: u64, expected_inodes: u64 } = "X_QUOTA_USAGE" Warning preen
        "{who} {id} is said to use {bytes} bytes and {inodes} inodes, but uses {expected_bytes} bytes and {expected_inodes} inodes"
        => Slots "usage is counted again, and limits are kept";

    /// The file to which the nodes of a cluster sign that they live must have a block for each possible node, one behind the other. This one has not. Cluster stacks cannot use the volume without it.
    HeartbeatInvalid { found: u64, expected: u64 } = "X_HEARTBEAT_INVALID" Error ask
        "the heartbeat file has {found} blocks in one run for {expected}"
        => System "the file gets as many blocks in one run, all zeros";
}
