//! Changes of whole trees: of files, and of all that is below them.

use std::collections::HashSet;
use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow};
use cowfs_format::layout::FileType;
use cowfs_format::txn::Txn;
use cowfs_format::units::BlockNo;
use cowfs_format::volume::tree::{self, Event};

use super::{AllAltered, Below, HELD, Said};
use crate::session::{Outcome, Session};
use crate::words;

/// What `change` is to be done to: the inodes of `specs` and all below them, each once. Symbolic
/// links are not followed; `kinds` says what takes part.
fn gather(
    session: &mut Session,
    specs: &[Vec<u8>],
    kinds: fn(Option<FileType>) -> bool,
) -> Result<(Vec<u64>, Vec<BlockNo>)> {
    session.scanner()?;
    let (mut tops, mut all, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    for spec in specs {
        let start = session.find(spec)?;
        tops.push(start.0);
        let (scanner, view) = session.scan()?;
        let mut failed = None;
        tree::walk(
            scanner,
            view,
            start,
            |_, inode| inode.file_type(),
            |event| match event {
                Event::Found(node, kind) => {
                    if kinds(kind) && known.insert(node.blkno) {
                        all.push(node.blkno);
                    }
                    ControlFlow::Continue(())
                }
                Event::Failed(node, error) => {
                    failed = Some((node.path, error));
                    ControlFlow::Break(())
                }
                Event::Left(_) => ControlFlow::Continue(()),
            },
        );
        if let Some((path, error)) = failed {
            let place = words::quoted(&[spec, &b"/"[..], &path].concat());
            return Err(anyhow!(error).context(place));
        }
    }
    Ok((tops, all))
}

/// Changes files and all that is below them, in as many transactions as that takes; inside of a
/// group it is a part of that.
pub(super) fn each_below(
    session: &mut Session,
    specs: &[Vec<u8>],
    kinds: fn(Option<FileType>) -> bool,
    mut change: impl FnMut(&mut Txn<'_>, BlockNo) -> Result<()>,
) -> Said {
    let (inodes, all) = gather(session, specs, kinds)?;
    let most = if session.in_group() { usize::MAX } else { HELD };
    let mut left = all.iter().copied().peekable();
    let (mut changed, mut transactions, mut blocks) = (0, 0, 0);
    loop {
        let step = session.change(|txn| {
            let mut done = 0;
            while txn.staged_blocks() < most {
                let Some(blkno) = left.next() else { break };
                change(txn, blkno).with_context(|| format!("inode {blkno}"))?;
                done += 1;
            }
            Ok(done)
        });
        let (done, outcome) = step.with_context(|| match changed {
            0 => "nothing was changed".to_owned(),
            n => format!("{n} inodes were changed before, in {transactions} whole transactions"),
        })?;
        changed += done;
        transactions += 1;
        blocks += outcome.blocks;
        if left.peek().is_none() {
            let outcome = Outcome { blocks, ..outcome };
            let below = Some(Below {
                changed,
                transactions,
            });
            return Ok(Some(Box::new(AllAltered {
                inodes,
                below,
                outcome,
            })));
        }
    }
}
