//! `neargate image`: the image store of a data directory. A server may use it at the same time.

mod history;
mod inspect;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use neargate_container::{Policy, Rights, become_user};
use neargate_image::{ImageStore, ImageSummary, Imported, Kind, PackOptions, Platform};
use neargate_model::image::ImageReference;
use serde_json::json;

use self::inspect::Place;
use crate::adopt;
use crate::client::{Output, size, table, tell_server};
use crate::data_dir::DataDir;
use crate::keeper::Files;
use crate::progress::Progress;
use crate::pull;
use crate::wasm;

/// Options of `neargate image`.
#[derive(Args, Debug)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
    /// Data directory [default: /var/lib/neargate as root, else below $XDG_DATA_HOME].
    #[arg(long, env = "NEARGATE_DATA", value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum ImageCommand {
    /// Import an OCI image layout, an archive of `docker save`, or a Wasm binary.
    Import {
        /// A file, or the directory of an OCI image layout.
        path: PathBuf,
        /// The image's name; else what the archive says, or the file's name.
        #[arg(long, value_name = "REF")]
        name: Option<ImageReference>,
    },
    /// Pull an image from a registry; layers that are here are not fetched again.
    Pull {
        /// The image, for example alpine:3.20 or registry.example/app@sha256:…
        name: ImageReference,
        /// The platform of an image for several, for example linux/arm64/v8 [default: this machine's].
        #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
        platform: Option<Platform>,
        /// Show nothing but the result.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Make an image of a directory; the same directory makes the same image.
    Pack(PackArgs),
    /// List images.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Remove an image's name, and what no other name or task needs.
    Rm {
        /// The image.
        name: ImageReference,
    },
    /// Show what an image is; of Wasm also how it can be run and what it must be granted.
    Inspect {
        /// A Wasm file, or the name of an image in the store.
        image: String,
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show how an image was made, newest step first.
    History {
        /// The image.
        name: ImageReference,
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Remove what no name and no task needs.
    Prune,
}

#[derive(Args, Debug)]
struct PackArgs {
    /// The directory that becomes the root file system.
    dir: PathBuf,
    /// The image's name.
    #[arg(long, value_name = "REF")]
    name: ImageReference,
    /// The program to run.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: String,
    /// An argument of it; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable of its environment; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Its working directory.
    #[arg(long, value_name = "DIR", default_value = "")]
    workdir: String,
    /// The user it runs as, `user[:group]`.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

/// Called before any thread exists.
pub(crate) fn run(args: &ImageArgs) -> Result<ExitCode> {
    let data = DataDir::open(args.data.as_deref())?;
    let (is_root, owner) = (rustix::process::geteuid().is_root(), adopt::user_of(&data)?);
    let launcher = wasm::launch(Policy { invoker: None, kept: vec![data.images()] })?;
    if is_root && !owner.is_root() {
        // What is written is to be the server's; what is read is the caller's choice.
        become_user(owner.uid, owner.gid, Rights::ReadAll)?;
    }
    let files = Files::of_images(&data, Arc::new(launcher.clone()), is_root)?;
    let store =
        ImageStore::open_with(data.images(), files.image_options()).context("open the image store")?;
    let mut out = std::io::stdout().lock();
    match &args.command {
        ImageCommand::Import { path, name } => {
            let progress = Progress::start(format!("importing {}", path.display()), false);
            let imported = store.import(path, name.clone());
            drop(progress);
            let imported = imported.with_context(|| format!("import {}", path.display()))?;
            print_imported(&imported, &mut out)?;
            tell_server(data.root(), imported.name.canonical());
        }
        ImageCommand::Pull { name, platform, quiet } => {
            let puller = pull::puller(&data, store.clone())?;
            let pulled = pull::pull_and_show(&puller, name, platform.clone(), *quiet)?;
            print_imported(&pulled, &mut out)?;
            tell_server(data.root(), pulled.name.canonical());
        }
        ImageCommand::Pack(pack) => {
            let progress = Progress::start(format!("packing {}", pack.dir.display()), false);
            let packed = store.pack_directory(&pack.dir, &options(pack)?);
            drop(progress);
            print_imported(&packed.with_context(|| format!("pack {}", pack.dir.display()))?, &mut out)?;
        }
        ImageCommand::Ls { output } => list(&store, *output, &mut out)?,
        ImageCommand::Rm { name } => {
            let removed = store.remove(name).context("remove image")?;
            let bytes = removed.reclaimed.map_or(0, |reclaimed| reclaimed.bytes);
            writeln!(out, "removed {} ({})", removed.name.familiar(), size(bytes))?;
        }
        ImageCommand::Inspect { image, output } => inspect::run(
            &Place { store: &store, launcher: &launcher, data: &data },
            image,
            *output,
            &mut out,
        )?,
        ImageCommand::History { name, output } => history::run(&store, name, *output, &mut out)?,
        ImageCommand::Prune => {
            let reclaimed = store.prune().context("remove what is not needed")?;
            let (blobs, layers) = (reclaimed.blobs, reclaimed.layers);
            writeln!(out, "removed {blobs} blobs and {layers} layers ({})", size(reclaimed.bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn options(pack: &PackArgs) -> Result<PackOptions> {
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => anyhow::bail!("--env {text}: say NAME=VALUE"),
    };
    Ok(PackOptions {
        entrypoint: vec![pack.entrypoint.clone()],
        cmd: pack.cmd.clone(),
        env: pack.env.iter().map(variable).collect::<Result<_>>()?,
        working_dir: pack.workdir.clone(),
        user: pack.user.clone(),
        ..PackOptions::new(pack.name.clone())
    })
}

fn print_imported(imported: &Imported, out: &mut impl Write) -> Result<()> {
    Ok(writeln!(out, "{} {}", imported.name.familiar(), imported.digest)?)
}

fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::Oci => "oci",
        Kind::Wasm => "wasm",
    }
}

fn list(store: &ImageStore, output: Output, out: &mut impl Write) -> Result<()> {
    let images = store.list().context("list images")?;
    match output {
        Output::Json => {
            let image = |image: &ImageSummary| {
                json!({
                    "name": image.name.canonical(),
                    "digest": image.digest.to_string(),
                    "kind": kind(&image.kind),
                    "size_bytes": image.size_bytes,
                })
            };
            let images: Vec<_> = images.iter().map(image).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&images)?)?;
        }
        Output::Table => {
            let row = |image: &ImageSummary| {
                let digest: String = image.digest.to_string().chars().take(19).collect();
                vec![image.name.familiar(), kind(&image.kind).to_owned(), digest, size(image.size_bytes)]
            };
            let rows: Vec<_> = images.iter().map(row).collect();
            write!(out, "{}", table(&["NAME", "KIND", "DIGEST", "SIZE"], &rows))?;
        }
    }
    Ok(())
}
