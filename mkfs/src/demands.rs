//! What a caller may ask for: features, cluster and label that contradict neither each other nor
//! what drivers mount.

use cowfs_format::error::{Error, Result};
use cowfs_format::layout::{Features, Incompat};

use crate::options::{ClusterStack, Mount, Options};

/// The features, with those that follow from the kind of mount.
pub(crate) fn features(options: &Options) -> Result<Features> {
    let refuse = |what: &str| {
        Err(Error::Input {
            what: what.to_owned(),
        })
    };
    let mut features = options.features;
    match options.mount {
        Mount::Local => {
            if options.cluster.is_some() {
                return refuse("a local volume has no cluster stack; use -M cluster");
            }
            if features.has(Incompat::CLUSTERINFO) {
                return refuse(
                    "feature clusterinfo needs a cluster: give --cluster-stack and --cluster-name",
                );
            }
            features.incompat |= Incompat::LOCAL_MOUNT;
        }
        Mount::Cluster => {
            if features.has(Incompat::LOCAL_MOUNT) {
                return refuse("feature local contradicts -M cluster; leave one out");
            }
        }
    }
    match &options.cluster {
        Some(cluster) => {
            check_cluster(cluster)?;
            features.incompat |= Incompat::EXTENDED_SLOT_MAP;
            if !features.has(Incompat::CLUSTERINFO) {
                features.incompat |= if cluster.stack == *b"o2cb" {
                    Incompat::CLUSTERINFO
                } else {
                    Incompat::USERSPACE_STACK
                };
            }
        }
        None if features.has(Incompat::CLUSTERINFO) => {
            return refuse("feature clusterinfo needs --cluster-stack and --cluster-name");
        }
        None => {}
    }
    Ok(features)
}

fn check_cluster(cluster: &ClusterStack) -> Result<()> {
    let name = &cluster.name;
    let o2cb = cluster.stack == *b"o2cb";
    let why = if !matches!(&cluster.stack, b"o2cb" | b"pcmk" | b"cman") {
        "the cluster stack is o2cb, pcmk or cman".to_owned()
    } else if name.is_empty() || name.len() > 16 {
        format!("cluster name \"{name}\" must have 1 to 16 characters")
    } else if o2cb && !name.bytes().all(|c| c.is_ascii_alphanumeric()) {
        format!("cluster name \"{name}\" must be of letters and digits for stack o2cb")
    } else if name.bytes().any(|c| c == 0) {
        "the cluster name contains a NUL".to_owned()
    } else if cluster.global_heartbeat && !o2cb {
        "global heartbeat is a mode of stack o2cb; give --cluster-stack=o2cb".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Input { what: why })
}

pub(crate) fn check_label(label: &str) -> Result<()> {
    if label.len() < 64 && !label.contains('\0') {
        return Ok(());
    }
    Err(Error::Input {
        what: format!(
            "the label has {} bytes; it may have up to 63, and no NUL",
            label.len()
        ),
    })
}
