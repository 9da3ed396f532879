//! `init`

use crate::arguments::InitArgs;
use crate::failure::Outcome;
use crate::output::Output;
use serde_json::json;
use std::path::Path;
use tombolo_core::{CreateOptions, OpenOptions, Segment};

pub(super) async fn init(output: &mut Output, dir: &Path, args: InitArgs) -> Outcome {
    let options = CreateOptions { name: args.segment, cluster: args.cluster };
    let segment = Segment::create(dir, options, OpenOptions::default()).await?;
    let (id, name, cluster) = (segment.id(), segment.name().to_string(), segment.cluster().to_string());
    segment.close().await?;
    output.answer(
        json!({ "segment": id.to_string(), "name": name, "cluster": cluster, "dir": dir.display().to_string() }),
        &format!(
            "Segment {name} of cluster {cluster} is in {}.\nServe it: tombolo serve --dir {}",
            dir.display(),
            dir.display()
        ),
    )?;
    output.flush()
}
