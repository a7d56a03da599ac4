//! `neargate image history`: how an image was made, as its configuration tells it.

use std::io::Write;

use anyhow::{Context, Result};
use neargate_image::{HistoryStep, ImageStore, LayerDetail};
use neargate_model::image::ImageReference;
use serde_json::json;

use crate::client::{Output, size, table};
use crate::run::not_found;

/// Longer commands are cut in a table.
const COMMAND_CHARS_MAX: usize = 60;

pub(super) fn run(
    store: &ImageStore,
    name: &ImageReference,
    output: Output,
    out: &mut impl Write,
) -> Result<()> {
    let detail = store.inspect(name).with_context(|| not_found(&name.familiar()))?;
    let steps = steps(&detail.history, &detail.layers);
    match output {
        Output::Json => {
            let one = |(step, layer): &(HistoryStep, Option<&LayerDetail>)| {
                json!({
                    "created": step.created,
                    "created_by": step.created_by,
                    "comment": step.comment,
                    "layer": layer.map(|layer| layer.digest.to_string()),
                    "size_bytes": layer.map_or(0, |layer| layer.size_bytes),
                })
            };
            let steps: Vec<_> = steps.iter().map(one).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&steps)?)?;
        }
        Output::Table => {
            let row = |(step, layer): &(HistoryStep, Option<&LayerDetail>)| {
                let name =
                    layer.map_or("-".to_owned(), |layer| layer.digest.hex().chars().take(12).collect());
                let command: String = step.created_by.chars().take(COMMAND_CHARS_MAX).collect();
                vec![name, size(layer.map_or(0, |layer| layer.size_bytes)), step.created.clone(), command]
            };
            let rows: Vec<_> = steps.iter().map(row).collect();
            write!(out, "{}", table(&["LAYER", "SIZE", "CREATED", "CREATED BY"], &rows))?;
        }
    }
    Ok(())
}

/// Steps and the layers that they made, newest first. Layers of which nothing is told are steps, too.
fn steps<'l>(
    history: &[HistoryStep],
    layers: &'l [LayerDetail],
) -> Vec<(HistoryStep, Option<&'l LayerDetail>)> {
    let mut layers = layers.iter();
    let mut steps = Vec::new();
    for step in history {
        let layer = if step.empty_layer { None } else { layers.next() };
        steps.push((step.clone(), layer));
    }
    steps.extend(layers.map(|layer| (HistoryStep::default(), Some(layer))));
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use neargate_model::image::Digest;

    use super::*;

    #[test]
    fn steps_meet_their_layers() {
        let layer = |n: u8| LayerDetail {
            digest: Digest::from_bytes([n; 32]),
            diff_id: None,
            media_type: String::new(),
            size_bytes: n.into(),
        };
        let layers = [layer(1), layer(2), layer(3)];
        let step = |created_by: &str, empty_layer| HistoryStep {
            created_by: created_by.to_owned(),
            empty_layer,
            ..HistoryStep::default()
        };
        let history = [step("a", false), step("env", true), step("b", false)];
        let found: Vec<_> = steps(&history, &layers)
            .into_iter()
            .map(|(step, layer)| (step.created_by, layer.map_or(0, |layer| layer.size_bytes)))
            .collect();
        let expect = [("", 3), ("b", 2), ("env", 0), ("a", 1)];
        assert_eq!(found, expect.map(|(text, size)| (text.to_owned(), size)));
        assert_eq!(steps(&[step("a", false), step("b", false)], &layers[..1]).len(), 2);
    }
}
