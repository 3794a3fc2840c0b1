//! What webhooks see of an object, and what becomes of it when they have changed it.

use corral_api::status::Status;
use corral_kinds::Object;
use serde_json::Value;

use super::{Resource, body, keep_unwritten, metadata};
use crate::admission::{Action, Attributes};
use crate::apply::restore_managed;

/// What the server sets on a new object once webhooks have seen it.
const SET_LATER: [&str; 3] = ["uid", "creationTimestamp", "generation"];

impl Resource {
    /// An object as webhooks see it that may change it.
    pub(crate) fn shown(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<Value, Status> {
        let mut value = self.shown_whole(attributes, object)?;
        if attributes.action == Action::Create
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            SET_LATER.iter().for_each(|key| drop(metadata.remove(*key)));
            if attributes.names_itself {
                metadata.remove("name");
            }
        }
        Ok(value)
    }

    /// An object as webhooks see it that may only refuse it.
    pub(crate) fn shown_whole(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<Value, Status> {
        let mut value = self.encode(object)?;
        restore_managed(&mut value, attributes.managed.cloned());
        Ok(value)
    }

    /// The object that webhooks have made of another: what the writer may not change they may not either.
    ///
    /// # Errors
    /// 500 for what is no object of the kind.
    pub(crate) fn changed_by_webhooks(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
        mut value: Value,
        old: Option<&Value>,
    ) -> Result<Object, Status> {
        let kind = &*self.kind;
        let before = self.encode(object)?;
        body::check_type(kind, &mut value).map_err(|status| Status::internal(status.message))?;
        self.schema()
            .check(&mut value)
            .map_err(|error| Status::internal(error.0))?;
        match old {
            None => self.complete_new(&mut value, &before),
            Some(old) => {
                let name = kind.meta(object).name.clone().unwrap_or_default();
                metadata::for_update(self, attributes.cx, &name, &mut value, old)?;
                keep_unwritten(kind, attributes.part, &mut value, old);
            }
        }
        let mut object = self.decode(value)?;
        kind.default(&mut object);
        Ok(object)
    }

    fn complete_new(&self, value: &mut Value, before: &Value) {
        if let Value::Object(map) = value
            && self.kind.has_status()
            && !self.kind.keeps_status_at_creation()
        {
            map.remove("status");
        }
        let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
            return;
        };
        let was = &before["metadata"];
        for key in SET_LATER {
            match was.get(key) {
                Some(kept) => metadata.insert(key.to_owned(), kept.clone()),
                None => metadata.remove(key),
            };
        }
        // Another name is taken, another namespace refused later on.
        for key in ["name", "namespace"] {
            if let (Some(kept), false) = (was.get(key), metadata.contains_key(key)) {
                metadata.insert(key.to_owned(), kept.clone());
            }
        }
    }
}
