//! The JSON Schema of what the program says with `--json`, made from the models themselves.
//!
//! It is one document. A definition for each command tells of the line that the command prints: the
//! head that all lines have, and the entries of its model. A failed command has `errors`, and may
//! have the entries of its model besides, as far as it came. An object may get more entries in
//! later versions; the ones that are here stay what they are as long as `schema` is 1.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::table::{self, Command};

/// Gives the schema of a command's model.
pub type Says = fn(&mut SchemaGenerator) -> Schema;

/// What a command says whose model is a `T`.
pub fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// What a command says that only does something.
#[must_use]
pub fn nothing(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// What a command says that may have nothing to say.
pub fn optional<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [of::<T>(generator), nothing(generator)] })
}

/// What a command says that writes `T`s one by one, as the array `key`, and then what `end` tells
/// of; in its table entry: `says: |generator| schema::rows::<T>(generator, "key", schema::nothing)`.
pub fn rows<T: JsonSchema>(generator: &mut SchemaGenerator, key: &str, end: Says) -> Schema {
    let row = generator.subschema_for::<T>();
    let array = json_schema!({
        "type": "object",
        "properties": Map::from_iter([(
            key.to_owned(),
            json!({ "type": "array", "items": row }),
        )]),
        "required": [key],
    });
    // Whatever stops the rows leaves the array closed and the end out.
    let end = json_schema!({ "anyOf": [end(generator), { "required": ["errors"] }] });
    json_schema!({ "allOf": [array, end] })
}

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    // Each definition stands for itself: the names of inner models are nobody's business.
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut definitions = Map::new();
    let mut lines = Vec::new();
    for command in table::commands() {
        lines.push(json!({ "$ref": format!("#/$defs/{}", command.name) }));
        definitions.insert(command.name.to_owned(), line(&mut generator, command));
    }
    // A word that is no command is answered too.
    lines.push(json!({ "$ref": "#/$defs/unknown" }));
    definitions.insert("unknown".to_owned(), unknown());
    // What models refer to because it contains itself.
    definitions.extend(generator.take_definitions(true));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:cowfs:debugfs:1",
        "title": "debugfs.cowfs --json",
        "description": "A line of output: the answer to one command. Sizes are in bytes where the \
                        name says so, otherwise in the unit that the format uses. Numbers are exact \
                        up to 64 bits. A name that is not UTF-8 has replacement characters, and \
                        all its bytes in base64 in the entry of the same name with _b64.",
        "anyOf": lines,
        "$defs": definitions,
    })
}

/// The line of a command.
fn line(generator: &mut SchemaGenerator, command: &Command) -> Value {
    let names: Vec<&str> = std::iter::once(command.name)
        .chain(command.aliases.iter().copied())
        .collect();
    let mut model = (command.says)(generator);
    // That is the name of a type in the program, of no use to others.
    model.remove("title");
    let mut head = head(json!({ "enum": names }));
    head.insert("description".to_owned(), command.summary.into());
    head.insert(
        "anyOf".to_owned(),
        json!([model, { "required": ["errors"] }]),
    );
    head.into()
}

/// The line for a word that is no command.
fn unknown() -> Value {
    let names: Vec<&str> = table::commands()
        .flat_map(|c| std::iter::once(c.name).chain(c.aliases.iter().copied()))
        .collect();
    let mut head = head(json!({ "type": "string", "not": { "enum": names } }));
    let required = json!(["schema", "command", "errors"]);
    head.insert("required".to_owned(), required);
    head.into()
}

/// What all lines have.
fn head(command: Value) -> Map<String, Value> {
    let head = json!({
        "type": "object",
        "properties": {
            "schema": { "description": "Version of these conventions.", "const": 1 },
            "command": command,
            "notes": {
                "description": "What is worth knowing and no failure; absent when nothing is.",
                "type": "array",
                "items": { "type": "string" },
                "minItems": 1,
            },
            "errors": {
                "description": "What went wrong; absent when nothing did.",
                "type": "array",
                "items": { "type": "string" },
                "minItems": 1,
            },
        },
        "required": ["schema", "command"],
    });
    match head {
        Value::Object(head) => head,
        _ => Map::new(),
    }
}
