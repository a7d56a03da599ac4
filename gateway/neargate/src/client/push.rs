//! `neargate push`: puts an image of the server's store into its registry.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use neargate_model::image::ImageReference;

use super::connect::ClientOptions;

/// Options of `neargate push`.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The image, as `neargate image ls` of the server's data directory names it.
    #[arg(value_name = "IMAGE")]
    image: ImageReference,
    /// The repository, which is made if it is not there, and the tag [default: latest]; with or without the address of the
    /// server before it.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    to: String,
    #[command(flatten)]
    options: ClientOptions,
}

/// Puts an image into the registry, and prints its name there and its digest. No byte of it travels.
pub(crate) async fn run(args: PushArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let pushed = client.push_image(&args.image.canonical(), &args.to).await;
    let (name, digest) = pushed.with_context(|| format!("push {}", args.image.familiar()))?;
    writeln!(io::stdout(), "{name} {digest}")?;
    Ok(ExitCode::SUCCESS)
}
