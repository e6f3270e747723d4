//! From the types that a file is read into, to the JSON schema of what they take.
//!
//! A type is read from a false input that asks back: which keys it knows, which of them it can do without, and what form a
//! value has ([`Value::FORM`](crate::read::Value::FORM)). So the schema cannot say anything else than the reader does.

use serde::de::value::{BorrowedStrDeserializer, Error};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

/// The schema of a table that is read into `T`.
pub(crate) fn table<T: DeserializeOwned>() -> Value {
    let mut schema = Value::Null;
    let read = T::deserialize(Tracer { out: &mut schema, without: None });
    debug_assert!(read.is_ok(), "a type that reads tables takes a full one");
    let names: Vec<String> =
        schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let needed = |name: &&String| {
        T::deserialize(Tracer { out: &mut Value::Null, without: Some(name.as_str()) }).is_err()
    };
    let required: Vec<&String> = names.iter().filter(needed).collect();
    schema["required"] = json!(required);
    schema
}

/// A false input: writes down what it is asked for.
struct Tracer<'a> {
    out: &'a mut Value,
    /// A key that is left out.
    without: Option<&'a str>,
}

/// What kinds of values answer.
macro_rules! answer {
    ($($method:ident: $schema:tt => $visit:ident($value:expr);)+) => {
        $(fn $method<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.out = json!($schema);
            visitor.$visit($value)
        })+
    };
}

impl Deserializer<'static> for Tracer<'_> {
    type Error = Error;

    answer! {
        deserialize_bool: {"type": "boolean"} => visit_bool(false);
        deserialize_i64: {"type": "integer"} => visit_i64(1);
        deserialize_u8: {"type": "integer", "minimum": 0} => visit_u64(1);
        deserialize_u32: {"type": "integer", "minimum": 0} => visit_u64(1);
        deserialize_u64: {"type": "integer", "minimum": 0} => visit_u64(1);
        deserialize_str: {"type": "string"} => visit_str("");
        deserialize_string: {"type": "string"} => visit_str("");
    }

    // A value that knows its form.
    fn deserialize_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        let form = format!("{:#}", &visitor as &dyn Expected);
        *self.out = serde_json::from_str(&form).unwrap_or_default();
        visitor.visit_str("")
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut items = Value::Null;
        let read = visitor.visit_seq(One { out: &mut items, left: 1 });
        *self.out = json!({ "type": "array", "items": items });
        read
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut values = Map::new();
        let read = visitor.visit_map(Fields { names: &["any"], out: &mut values, without: None, at: "" });
        *self.out = json!({ "type": "object", "additionalProperties": values["any"] });
        read
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut properties = Map::new();
        let read =
            visitor.visit_map(Fields { names: fields, out: &mut properties, without: self.without, at: "" });
        // A value that knows its place: start, end, value.
        *self.out = match fields.iter().find(|key| name.contains("Spanned") && key.contains("value")) {
            Some(value) => properties.remove(*value).unwrap_or_default(),
            None => json!({ "type": "object", "properties": properties, "additionalProperties": false }),
        };
        read
    }

    fn deserialize_identifier<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str("")
    }

    fn deserialize_ignored_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_u16<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u32(visitor)
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'static>>
        i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct enum
    }
}

/// One item of a list.
struct One<'a> {
    out: &'a mut Value,
    left: usize,
}

impl SeqAccess<'static> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'static>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left = 0;
        seed.deserialize(Tracer { out: self.out, without: None }).map(Some)
    }
}

/// The fields of a table, each once.
struct Fields<'a> {
    names: &'static [&'static str],
    out: &'a mut Map<String, Value>,
    without: Option<&'a str>,
    at: &'static str,
}

impl MapAccess<'static> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'static>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((first, rest)) = self.names.split_first() {
            (self.names, self.at) = (rest, first);
            if self.without != Some(first) {
                return seed.deserialize(BorrowedStrDeserializer::new(first)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'static>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut value = Value::Null;
        let read = seed.deserialize(Tracer { out: &mut value, without: None });
        self.out.insert(self.at.to_owned(), value);
        read
    }
}
