//! Directories: their blocks and entries, once all inodes are known.

use std::sync::atomic::Ordering;

use cowfs_format::block::{BlockBuf, Checked};
use cowfs_format::error::FaultKind;
use cowfs_format::layout::{
    DIR_TRAILER, DIR_TRAILER_SIGNATURE, Dinode, DirBlockTrailer, DynFeatures, FileType, HashKind,
    dx_hash, dx_hashes, hash_is_split,
};
use cowfs_format::read::dir::{Entry, entries, has_trailer};
use cowfs_format::units::BlockNo;
use zerocopy::FromBytes;

use super::bitmap;
use super::extents::{self, Tree};
use super::index::{self, Index, Name, Place};
use crate::catalogue::{At, DirProblem, InodeProblem, VolumeProblem};
use crate::facts::{Cx, Out, note_ecc};

/// What a directory says of its place in the tree.
#[derive(Debug, Default)]
pub(crate) struct DirOut {
    pub(crate) out: Out,
    /// Directories that it has entries for: child, this directory.
    pub(crate) children: Vec<(BlockNo, BlockNo)>,
    /// Where its ".." leads.
    pub(crate) dotdot: Option<BlockNo>,
    pub(crate) dir: BlockNo,
}

impl DirOut {
    /// Tells of an entry that gives another type than it must.
    fn of_type(&mut self, at: At, entry: &Entry<'_>, expected: u8) {
        let found = entry.file_type;
        if found != expected {
            let name = shown(entry.name);
            let problem = DirProblem::Type {
                name,
                found,
                expected,
            };
            self.out.find(at, problem);
        }
    }
}

struct Scan<'a, 'v> {
    cx: &'a Cx<'v>,
    inode: &'a Checked<'v, Dinode>,
    result: DirOut,
    index: Option<Index<'v>>,
    orphan_slot: Option<u16>,
    /// The names that were read, under their signed hash.
    names: Vec<Name>,
    /// Those that have another hash, under that.
    split: Vec<Name>,
    blocks: Vec<BlockNo>,
    complete: bool,
}

/// Reads a directory.
pub(crate) fn scan(cx: &Cx<'_>, blkno: BlockNo) -> DirOut {
    let (inode, _) = cx.view.inspect::<Dinode>(blkno);
    let Some(inode) = inode else {
        return DirOut {
            dir: blkno,
            ..DirOut::default()
        };
    };
    let mut result = DirOut {
        dir: blkno,
        ..DirOut::default()
    };
    let index = Index::load(cx, &mut result.out, &inode);
    let mut scan = Scan {
        cx,
        inode: &inode,
        result,
        index,
        orphan_slot: cx.orphan_dirs.get(&blkno).copied(),
        names: Vec::new(),
        split: Vec::new(),
        blocks: Vec::new(),
        complete: true,
    };
    if let Some(bytes) = inode.inline_data() {
        scan.area(None, bytes, 0);
    } else {
        scan.data();
    }
    scan.finish()
}

/// A name for messages.
pub(crate) fn shown(name: &[u8]) -> String {
    cowfs_format::toolkit::report::PathText(name.to_vec()).shown()
}

impl<'v> Scan<'_, 'v> {
    fn data(&mut self) {
        let tree = Tree {
            owner: self.inode.blkno(),
            root: self.inode.blkno(),
            space: self.inode.body(),
            last_eb: 0,
            holes: true,
            shared: false,
            to_blocks: false,
        };
        let mut runs: Vec<(BlockNo, u64)> = Vec::new();
        let geo = self.cx.view.geo();
        let bpc = geo.blocks_per_cluster();
        let blocks = geo.blocks_for(self.inode.i_size.get());
        // What is wrong with the tree was told when its inode was looked at.
        let mut unheard = Out::default();
        let sum = extents::walk(self.cx, &mut unheard, tree, &mut |_, extent| {
            let first = u64::from(extent.cpos) * bpc;
            let count = (u64::from(extent.clusters) * bpc).min(blocks.saturating_sub(first));
            runs.push((extent.blkno, count));
        });
        self.complete &= !sum.broken;
        let mut area = 0u32;
        for (blkno, count) in runs {
            for i in 0..count {
                self.block(blkno.plus(i), area);
                area = area.saturating_add(1);
            }
        }
    }

    fn block(&mut self, blkno: BlockNo, area: u32) {
        self.blocks.push(blkno);
        let at = At::within(self.inode.blkno(), blkno);
        let with_trailer = has_trailer(self.cx.view, self.inode);
        let Some(bytes) = self.read(at, blkno, with_trailer) else {
            self.complete = false;
            return;
        };
        let end = bytes.len() - if with_trailer { DIR_TRAILER } else { 0 };
        let hole = self.area(Some(blkno), &bytes[..end], area);
        if with_trailer {
            self.trailer(at, blkno, &bytes[end..], hole);
            super::reserved::check(&mut self.result.out, at, &bytes);
        }
    }

    /// Reads a directory block; one that belongs to somebody else is left alone.
    fn read(&mut self, at: At, blkno: BlockNo, with_trailer: bool) -> Option<BlockBuf<'v>> {
        let view = self.cx.view;
        let out = &mut self.result.out;
        let what = "directory block";
        if !with_trailer {
            let bytes = view.raw(blkno).ok();
            if bytes.is_none() {
                out.find(at, VolumeProblem::Unreadable { what });
            }
            return bytes;
        }
        let Ok((bytes, state)) = view.trailed_block(blkno) else {
            out.find(at, VolumeProblem::Unreadable { what });
            return None;
        };
        let signature = bytes.len() - DIR_TRAILER + 0x10;
        let mut faults = 0;
        match state {
            Some(state) => note_ecc(out, at, what, state),
            None => {
                faults += 1;
                out.find(at, VolumeProblem::BadCrc { what });
            }
        }
        if bytes.get(signature..signature + 8) != Some(&DIR_TRAILER_SIGNATURE[..]) {
            faults += 1;
            out.find(at, DirProblem::TrailerSignature {});
        }
        (faults <= 1).then_some(bytes)
    }

    fn trailer(&mut self, at: At, blkno: BlockNo, bytes: &[u8], hole: Option<usize>) {
        let Ok(trailer) = DirBlockTrailer::ref_from_bytes(bytes) else {
            return;
        };
        let out = &mut self.result.out;
        if trailer.db_signature != DIR_TRAILER_SIGNATURE {
            return;
        }
        if trailer.db_compat_inode.get() != 0 {
            let found = trailer.db_compat_inode.get();
            out.find(at, DirProblem::TrailerInode { found });
        }
        if trailer.db_compat_name_len != 0 {
            let found = trailer.db_compat_name_len;
            out.find(at, DirProblem::TrailerNameLen { found });
        }
        if usize::from(trailer.db_compat_rec_len.get()) != DIR_TRAILER {
            let found = trailer.db_compat_rec_len.get();
            out.find(at, DirProblem::TrailerRecLen { found });
        }
        if trailer.db_blkno.get() != blkno.0 {
            let found = trailer.db_blkno.get();
            out.find(at, DirProblem::TrailerBlkno { found });
        }
        if trailer.db_parent_dinode.get() != self.inode.blkno().0 {
            let found = trailer.db_parent_dinode.get();
            out.find(at, DirProblem::TrailerParent { found });
        }
        let indexed = self.inode.dyn_features().contains(DynFeatures::INDEXED_DIR);
        let promised = usize::from(trailer.db_free_rec_len.get());
        if indexed && hole.is_some_and(|hole| promised > hole) {
            let (why, found) = ("a block promises more room than it has", promised as u64);
            out.find(at, DirProblem::DxFreeList { why, found });
        }
    }

    /// Reads the entries of an area; its largest hole, when all of it could be made out.
    fn area(&mut self, block: Option<BlockNo>, bytes: &[u8], area: u32) -> Option<usize> {
        let at = self.at(block);
        let mut hole = Some(0);
        let (mut names, mut places) = (Vec::new(), Vec::new());
        for (number, entry) in entries(bytes).enumerate() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(kind) => {
                    let (offset, why) = self.length(bytes, &kind);
                    self.result.out.find(at, DirProblem::Length { offset, why });
                    self.complete = false;
                    hole = None;
                    break;
                }
            };
            hole = hole.max(Some(entry.hole()));
            let dotty = area == 0 && number < 2;
            if dotty {
                self.dotty(at, number, &entry);
            } else if entry.is_used() {
                self.entry(at, &entry);
            }
            if entry.is_used() || dotty {
                let offset = u32::try_from(entry.offset).unwrap_or(u32::MAX);
                names.push(entry.name);
                places.push(Place { area, offset });
            }
        }
        self.keep(&names, &places);
        hole
    }

    /// Keeps names under their hashes.
    fn keep(&mut self, names: &[&[u8]], places: &[Place]) {
        let seed = self.cx.view.info().dx_seed;
        let named = |(hash, &place)| Name {
            hash: index::key(hash),
            place,
        };
        let signed = dx_hashes(names, seed, HashKind::Signed);
        self.names.extend(signed.into_iter().zip(places).map(named));
        let split = names.iter().zip(places);
        for (name, place) in split.filter(|(name, _)| hash_is_split(name)) {
            let hash = dx_hash(name, seed, HashKind::Unsigned);
            self.split.push(named((hash, place)));
        }
    }

    /// Where entries of a block, or of the inode itself, are.
    fn at(&self, block: Option<BlockNo>) -> At {
        match block {
            Some(block) => At::within(self.inode.blkno(), block),
            None => At::inode(self.inode.blkno()),
        }
    }

    /// Where an entry that cannot be is, and why.
    fn length(&self, bytes: &[u8], kind: &FaultKind) -> (u64, String) {
        let good: usize = entries(bytes)
            .map_while(Result::ok)
            .map(|entry| entry.rec_len)
            .sum();
        (good as u64, kind.to_string())
    }

    /// Checks one of the first two entries.
    fn dotty(&mut self, at: At, number: usize, entry: &Entry<'_>) {
        let own = self.inode.blkno();
        let expected = if number == 0 { "." } else { ".." };
        if entry.name != expected.as_bytes() || !entry.is_used() {
            let found = shown(entry.name);
            self.result
                .out
                .find(at, DirProblem::NotDotty { expected, found });
            if entry.is_used() {
                self.entry(at, entry);
            }
            return;
        }
        if number == 0 {
            if entry.inode != own {
                let found = entry.inode.0;
                self.result.out.find(at, DirProblem::DotInode { found });
            }
            if entry.rec_len != 16 {
                let rec_len = entry.rec_len as u64;
                self.result.out.find(at, DirProblem::DotExcess { rec_len });
            }
        } else {
            self.result.dotdot = Some(entry.inode);
        }
        self.result.of_type(at, entry, FileType::Directory.dirent());
        // The names that a directory waiting for its end holds count no more.
        if !self.is_orphan() {
            self.count(entry.inode);
        }
    }

    fn is_orphan(&self) -> bool {
        self.inode
            .flags()
            .contains(cowfs_format::layout::InodeFlags::ORPHANED)
    }

    fn count(&self, target: BlockNo) {
        if let Some(fact) = self.cx.groups.inode(target) {
            fact.names.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn entry(&mut self, at: At, entry: &Entry<'_>) {
        let out = &mut self.result.out;
        let target = entry.inode.0;
        match entry.name {
            b"" => {
                let offset = entry.offset as u64;
                out.find(at, DirProblem::NameZero { offset });
            }
            b"." => out.find(at, DirProblem::DottyDup { name: "." }),
            b".." => out.find(at, DirProblem::DottyDup { name: ".." }),
            name if name.contains(&b'/') || name.contains(&0) => {
                out.find(at, DirProblem::NameChars { name: shown(name) });
            }
            _ => {}
        }
        if target <= cowfs_format::layout::SUPER_BLOCK_BLKNO
            || !self.cx.view.geo().contains(entry.inode, 1)
        {
            let name = shown(entry.name);
            out.find(at, DirProblem::InodeRange { name, target });
            return;
        }
        let fact = self.cx.groups.inode(entry.inode).filter(|fact| fact.seen());
        let Some(fact) = fact else {
            out.missed_groups
                .extend(bitmap::missed_group(self.cx, entry.inode));
            let name = shown(entry.name);
            out.find(at, DirProblem::InodeFree { name, target });
            return;
        };
        let expected = fact.dirent_type();
        if expected != 0 && !fact.damaged() {
            self.result.of_type(at, entry, expected);
        }
        let is_dir = fact.is_dir();
        if is_dir {
            self.result.children.push((entry.inode, self.inode.blkno()));
        }
        match self.orphan_slot {
            None => {
                fact.names.fetch_add(1, Ordering::Relaxed);
            }
            // The name leads to a file that is in use and only lends its end to a direct write.
            Some(_) if entry.name.starts_with(b"dio-") => {}
            Some(slot) => {
                fact.set_in_orphan_dir();
                self.result
                    .out
                    .find(At::inode(entry.inode), InodeProblem::Orphaned { slot });
                if is_dir {
                    self.count(self.inode.blkno());
                }
            }
        }
    }

    fn finish(mut self) -> DirOut {
        self.names.sort_unstable();
        self.duplicates();
        if let Some(mut index) = self.index.take() {
            self.split.sort_unstable();
            for place in index.missing(&self.names, &self.split, &self.blocks) {
                let name = shown(&self.name_at(place).unwrap_or_default());
                let at = self.at(self.block_of(place));
                self.result
                    .out
                    .find(at, DirProblem::DxLookupFailed { name });
            }
            let names = self.names.len() as u64;
            self.blocks.sort_unstable();
            index.finish(
                self.cx,
                &mut self.result.out,
                names,
                &self.blocks,
                self.complete,
            );
        }
        self.result
    }

    /// Looks for names that stand in the directory more than once.
    fn duplicates(&mut self) {
        let alike = self.names.chunk_by(|one, other| one.hash == other.hash);
        let mut found = Vec::new();
        for alike in alike.filter(|alike| alike.len() > 1) {
            let named = |name: &Name| Some((self.name_at(name.place)?, name.place));
            let mut names: Vec<(Vec<u8>, Place)> = alike.iter().filter_map(named).collect();
            names.sort_unstable();
            for pair in names.windows(2) {
                let ((one, _), (other, place)) = (&pair[0], &pair[1]);
                if one == other && one != b"." && one != b".." {
                    found.push((shown(other), *place));
                }
            }
        }
        for (name, place) in found {
            let at = self.at(self.block_of(place));
            self.result.out.find(at, DirProblem::Duplicate { name });
        }
    }

    /// The block that an entry stands in, unless the inode holds it.
    fn block_of(&self, place: Place) -> Option<BlockNo> {
        self.blocks.get(place.area as usize).copied()
    }

    /// The name of an entry that was read before.
    fn name_at(&self, place: Place) -> Option<Vec<u8>> {
        let from = |bytes: &[u8]| {
            let entry = entries(bytes.get(place.offset as usize..)?).next()?.ok()?;
            Some(entry.name.to_vec())
        };
        match self.inode.inline_data() {
            Some(bytes) => from(bytes),
            None => from(&self.cx.view.raw(self.block_of(place)?).ok()?),
        }
    }
}
