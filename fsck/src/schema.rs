//! The JSON Schema of the report, made from its model and from the catalogue.

use std::collections::BTreeSet;

use cowfs_format::toolkit::report::Report;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::catalogue;

/// The document. An object may get more entries in later versions; the ones that are here stay what
/// they are as long as `schema` is 1.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let model = settings.into_generator().into_root_schema_for::<Report>();
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:cowfs:fsck:1",
    });
    let codes: BTreeSet<&str> = catalogue::entries().map(|entry| entry.code).collect();
    if let (Some(whole), Value::Object(model)) = (document.as_object_mut(), model.to_value()) {
        whole.extend(model);
        whole.insert("title".to_owned(), "fsck.cowfs --json".into());
    }
    for (place, value) in [
        ("/properties/schema", json!({ "const": 1 })),
        ("/properties/program", json!({ "const": "fsck.cowfs" })),
        (
            "/properties/findings/items/properties/code",
            json!({ "enum": codes }),
        ),
        (
            "/properties/status",
            json!({ "enum": ["clean", "errors", "repaired", "repaired in part", "cancelled"] }),
        ),
    ] {
        let found = document.pointer_mut(place).and_then(Value::as_object_mut);
        if let (Some(found), Value::Object(value)) = (found, value) {
            found.remove("type");
            found.extend(value);
        }
    }
    document
}
