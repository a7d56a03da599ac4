//! Faces: what an API wants to show again of a record, kept by control as an opaque text.
//!
//! They are written and read here alone, as the wire shape in JSON. That keeps the model small and lets a
//! description return what was registered, without a second copy of ECS's hundred fields.

use neargate_wire::json;
use neargate_wire::shape::Shape;

/// A wire shape as text.
pub(crate) fn write<T: Shape>(shape: &T) -> String {
    String::from_utf8(json::encode(shape)).expect("the JSON encoder writes UTF-8")
}

/// The wire shape of a text that [`write`] made; the default for a text of which nothing can be made.
pub(crate) fn read<T: Shape + Default>(text: &str) -> T {
    if text.is_empty() {
        return T::default();
    }
    match json::decode(text.as_bytes()) {
        Ok((shape, _)) => shape,
        Err(error) => {
            tracing::error!(error = neargate_model::chain(&error), "stored face cannot be read");
            T::default()
        }
    }
}
