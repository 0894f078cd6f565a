//! Judges lines of JSON by the schema, with a validator that others wrote.
//!
//! The published schema allows more entries in objects than it names, for later versions; here it is closed, so an
//! entry that it does not name is found.

#![allow(clippy::unwrap_used)]

use debugfs_cowfs::{schema, table};
use jsonschema::Validator;
use serde_json::Value;

/// Closes all objects of a schema. In a part of an `anyOf` and the like (`part`) other parts may
/// name entries, so the whole is closed, not the part.
fn close(schema: &mut Value, part: bool) {
    let Value::Object(map) = schema else {
        return;
    };
    for (key, inner) in map.iter_mut() {
        match (key.as_str(), inner) {
            ("anyOf" | "oneOf" | "allOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(|inner| close(inner, true));
            }
            ("properties" | "$defs", Value::Object(named)) => {
                named.values_mut().for_each(|inner| close(inner, false));
            }
            ("items" | "additionalProperties", inner) => close(inner, false),
            ("prefixItems", Value::Array(parts)) => {
                parts.iter_mut().for_each(|inner| close(inner, false));
            }
            _ => {}
        }
    }
    if !part && map.contains_key("type") | map.contains_key("anyOf") | map.contains_key("oneOf") {
        map.insert("unevaluatedProperties".to_owned(), false.into());
    }
}

/// Validators of the whole document and of the line of one command.
pub(crate) struct Judge {
    document: Value,
    pub(crate) whole: Validator,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let mut document = schema::document();
        jsonschema::draft202012::meta::validate(&document).unwrap();
        for definition in document["$defs"].as_object_mut().unwrap().values_mut() {
            close(definition, false);
        }
        let whole = jsonschema::draft202012::new(&document).unwrap();
        Self { document, whole }
    }

    /// The validator of the line of a command.
    fn line(&self, name: &str) -> Validator {
        let mut document = self.document.clone();
        let map = document.as_object_mut().unwrap();
        map.remove("anyOf");
        map.insert("$ref".to_owned(), format!("#/$defs/{name}").into());
        jsonschema::draft202012::new(&document).unwrap()
    }

    /// Demands that a line is valid; what is wrong is told by the definition of the command.
    pub(crate) fn demand(&self, line: &str, said: &Value) {
        if self.whole.is_valid(said) {
            return;
        }
        let name = said["command"].as_str().unwrap().as_bytes();
        let name = table::find(name).map_or("unknown", |command| command.name);
        let wrong: Vec<String> = self
            .line(name)
            .iter_errors(said)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        let wrong = wrong.join("\n");
        panic!("{line}: {}", wrong.get(..4000).unwrap_or(&wrong));
    }
}
