//! Telling a server of this machine that an image was imported, so that it compiles it before it is needed.

use std::path::Path;
use std::time::Duration;

use neargate_sdk::{Client, Config, Explicit, local};

use super::connect::variable;

/// How long the server may take to note it; nobody should wait for what only saves time later.
const LIMIT: Duration = Duration::from_secs(1);

/// Tells the server that uses this data directory, if one runs, that tasks of an image may come. That it was not
/// told is no error: the first task of the image takes longer.
pub(crate) fn tell_server(data: &Path, image: String) {
    let Some(endpoint) = local::endpoint(data) else { return };
    let explicit = Explicit {
        endpoint: Some(endpoint),
        region: None,
        profile: None,
        data: Some(data.to_owned()),
        credentials: None,
    };
    let told = async {
        let config = Config::resolve(&explicit, &variable)?.attempts_max(1).attempt_timeout(LIMIT);
        Client::new(config)?.prepare_images(&[image]).await
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    if let Err(error) = runtime.block_on(told) {
        tracing::debug!(%error, "the server was not told of the image");
    }
}
