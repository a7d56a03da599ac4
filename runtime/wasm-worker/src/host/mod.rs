//! The host interfaces of a guest beyond WASI's own: `neargate:task/context`, `wasi:config`, `wasi:keyvalue` and
//! `wasi:logging`.
//!
//! The first is for everybody. The others are there for tasks whose definition grants them: a start is refused
//! when an import is not granted ([`grants_needed`]), and should a guest come as far as calling one, it ends there.

mod config;
mod keyvalue;
mod logging;
mod task;

use neargate_wasm::interfaces::{GRANT_CONFIG, GRANT_KEY_VALUE, GRANT_LOGGING, GRANTS, Offer, offer};
use wasmtime::component::{Component, HasData, Linker, ResourceTable};

use crate::budget::Account;
use crate::instance::{Ended, RunContext};
use crate::stdio::Output;
use crate::upcall::Upcalls;
use crate::worker::Stopping;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        inline: "
            package neargate:host;
            world host {
                import neargate:task/context@0.1.0;
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import wasi:logging/logging@0.1.0-draft;
                import wasi:logging/logging;
            }
        ",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:keyvalue/store@0.2.0-draft.bucket": super::keyvalue::Bucket,
            "wasi:keyvalue/store@0.2.0-draft2.bucket": super::keyvalue::Bucket,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": super::keyvalue::Cas,
        },
    });
}

/// What the interfaces of this module keep in a store.
pub(crate) struct Host {
    /// `None`: not granted.
    config: Option<Vec<(String, String)>>,
    /// `None`: not granted.
    key_values: Option<KeyValues>,
    /// Standard error of the run; `None`: not granted.
    log: Option<Output>,
    stop: Stopping,
}

/// The way to the tenant's buckets, and what their values are counted on while they are here.
#[derive(Clone)]
struct KeyValues {
    upcalls: Upcalls,
    account: Account,
}

impl Host {
    /// For a new store of a run.
    pub(crate) fn new(run: &RunContext) -> Self {
        let granted = |grant: &str| run.plan().grants.iter().any(|given| given == grant);
        let key_values = || KeyValues { upcalls: run.upcalls().clone(), account: run.account().clone() };
        Self {
            config: granted(GRANT_CONFIG).then(|| run.plan().config.clone()),
            key_values: granted(GRANT_KEY_VALUE).then(key_values),
            log: granted(GRANT_LOGGING).then(|| run.stdio().outputs[1].clone()),
            stop: run.stop().clone(),
        }
    }
}

/// The error that ends a guest at a call of what it was not granted.
fn not_granted(what: &str) -> wasmtime::Error {
    Ended::Denied { what: what.to_owned() }.into()
}

/// The grants that a component's imports need.
pub(crate) fn grants_needed(component: &Component) -> Vec<&'static str> {
    let ty = component.component_type();
    let needed: Vec<&str> = ty
        .imports(component.engine())
        .filter_map(|(name, _)| match offer(name) {
            Offer::Granted(grant) => Some(grant),
            Offer::Always | Offer::Never => None,
        })
        .collect();
    GRANTS.into_iter().filter(|grant| needed.contains(grant)).collect()
}

/// What to call the store's data by.
pub(crate) struct HostCtx<'a> {
    host: &'a mut Host,
    table: &'a mut ResourceTable,
}

impl<'a> HostCtx<'a> {
    /// What the interfaces keep, and the handles of the store.
    pub(crate) fn new(host: &'a mut Host, table: &'a mut ResourceTable) -> Self {
        Self { host, table }
    }
}

/// Gives the interfaces of this module access to a store's data.
pub(crate) trait HostView: Send {
    /// What they keep there.
    fn host(&mut self) -> HostCtx<'_>;
}

struct HasHost;

impl HasData for HasHost {
    type Data<'a> = HostCtx<'a>;
}

/// Adds the interfaces of this module.
pub(crate) fn add_to_linker<T: HostView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    use bindings::neargate::task::context;
    use bindings::wasi::{config, keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
    use bindings::wasi::{logging, logging0_1_0_draft};
    context::add_to_linker::<T, HasHost>(linker, T::host)?;
    config::store::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft::store::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft::atomics::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft::batch::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft2::store::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft2::atomics::add_to_linker::<T, HasHost>(linker, T::host)?;
    draft2::batch::add_to_linker::<T, HasHost>(linker, T::host)?;
    logging0_1_0_draft::logging::add_to_linker::<T, HasHost>(linker, T::host)?;
    logging::logging::add_to_linker::<T, HasHost>(linker, T::host)
}
