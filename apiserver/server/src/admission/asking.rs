//! What webhooks are asked about a write, and what becomes of their answers.

use corral_api::gvk::GroupVersionKind;
use corral_api::status::Status;
use corral_kinds::Object;
use serde_json::Value;

use super::webhooks::{Invocation, Kind, Operation, Request, Rounds};
use super::{Action, Admission, Attributes};
use crate::api::Api;
use crate::registry::{Part, Resource};

const SCALE: &str = "scale";

impl<'a> Attributes<'a> {
    /// The write as webhooks are asked about it; none for what the server does on its own after they were asked about
    /// what it follows from.
    fn request(&self, object: &Object) -> Option<Request<'a>> {
        if self.part == Part::Whole && self.subresource != "finalize" {
            return None;
        }
        let operation = match self.action {
            Action::Create => Operation::Create,
            Action::Update => Operation::Update,
        };
        let meta = self.kind.meta(object);
        let name = meta
            .name
            .as_deref()
            .filter(|_| !self.names_itself)
            .unwrap_or_default();
        let mut request = Request::about(self.resource, self.cx, operation, name);
        request.subresource = self.subresource;
        if self.subresource == SCALE {
            let kind = GroupVersionKind {
                group: "autoscaling".to_owned(),
                version: "v1".to_owned(),
                kind: "Scale".to_owned(),
            };
            request = request.of_subresource(SCALE, kind);
        }
        if request.is("", "namespaces") {
            request.namespace_labels.clone_from(&meta.labels);
        }
        Some(request)
    }

    /// What webhooks see of an object: its scale, if that is what is written.
    fn view(&self, value: Value) -> Result<Value, Status> {
        match self.subresource {
            SCALE => self.resource.scale_of(&value),
            _ => Ok(value),
        }
    }

    fn old(&self, old: Option<&Object>) -> Result<Option<Value>, Status> {
        let encode = |old: &Object| self.kind.encode(old).map_err(Status::internal);
        let mut old = old.map(encode).transpose()?;
        if let Some(old) = &mut old {
            self.resource.schema().complete(old);
        }
        Ok(old)
    }
}

/// The object with the number of a changed scale.
fn scaled(resource: &Resource, mut object: Value, scale: &Value) -> Value {
    let replicas = scale["spec"]["replicas"].clone();
    let path = resource.kind.scale().map(|paths| paths.spec_replicas);
    match path.and_then(|path| object.pointer_mut(path)) {
        Some(target) => *target = replicas,
        None => object["spec"]["replicas"] = replicas,
    }
    object
}

impl Admission {
    /// The webhooks to ask, if that is what the administrator wants.
    async fn asked(
        &self,
        api: &Api,
        kind: Kind,
        request: &Request<'_>,
    ) -> Result<Vec<Invocation>, Status> {
        let plugin = match kind {
            Kind::Mutating => "MutatingAdmissionWebhook",
            Kind::Validating => "ValidatingAdmissionWebhook",
        };
        match self.plugins.run(plugin) {
            true => self.webhooks.relevant(api, kind, request).await,
            false => Ok(Vec::new()),
        }
    }

    /// Asks mutating webhooks; when they have changed the object, the plugins see it again, and webhooks that want to.
    pub(super) async fn ask_mutating(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(request) = attributes.request(object) else {
            return Ok(());
        };
        let hooks = self.asked(api, Kind::Mutating, &request).await?;
        if hooks.is_empty() {
            return Ok(());
        }
        let resource = attributes.resource;
        let old_value = attributes.old(old)?;
        let old_view = old_value
            .clone()
            .map(|old| attributes.view(old))
            .transpose()?;
        let old_view = old_view.unwrap_or_default();
        let mut rounds = Rounds::default();
        for second in [false, true] {
            let whole = resource.shown(attributes, object)?;
            let mut shown = attributes.view(whole.clone())?;
            let changed = self
                .webhooks
                .mutate(api, &request, &hooks, &mut rounds, &mut shown, &old_view)
                .await?;
            if !changed {
                return Ok(());
            }
            let value = match attributes.subresource {
                SCALE => scaled(resource, whole, &shown),
                _ => shown,
            };
            *object =
                resource.changed_by_webhooks(attributes, object, value, old_value.as_ref())?;
            if !second {
                let before = resource.shown(attributes, object)?;
                self.built_in(api, attributes, object, old).await?;
                rounds.begin_second(resource.shown(attributes, object)? != before);
            }
        }
        Ok(())
    }

    /// Asks validating webhooks.
    pub(super) async fn ask_validating(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(mut request) = attributes.request(object) else {
            return Ok(());
        };
        let hooks = self.asked(api, Kind::Validating, &request).await?;
        if hooks.is_empty() {
            return Ok(());
        }
        // By now a new object has its name.
        request.name = attributes
            .kind
            .meta(object)
            .name
            .clone()
            .unwrap_or_default();
        let shown = attributes.view(attributes.resource.shown_whole(attributes, object)?)?;
        let old = attributes
            .old(old)?
            .map(|old| attributes.view(old))
            .transpose()?;
        let old = old.unwrap_or_default();
        self.webhooks
            .validate(api, &request, &hooks, &shown, &old)
            .await
    }

    /// Asks both kinds of webhooks about a deletion.
    pub(super) async fn ask_about_deletion(
        &self,
        api: &Api,
        request: &Request<'_>,
        old: &Value,
    ) -> Result<(), Status> {
        let hooks = self.asked(api, Kind::Mutating, request).await?;
        let (mut object, mut rounds) = (Value::Null, Rounds::default());
        self.webhooks
            .mutate(api, request, &hooks, &mut rounds, &mut object, old)
            .await?;
        let hooks = self.asked(api, Kind::Validating, request).await?;
        self.webhooks
            .validate(api, request, &hooks, &object, old)
            .await
    }

    /// Asks webhooks about an object that is not stored: the body of a subresource, or the options of a connection. Answers
    /// what they make of it.
    ///
    /// # Errors
    /// What a webhook says that refuses, or 500 for one that fails and whose failures count.
    pub async fn admit_other(
        &self,
        request: &Request<'_>,
        mut object: Value,
    ) -> Result<Value, Status> {
        let api = self.api()?;
        let hooks = self.asked(&api, Kind::Mutating, request).await?;
        let (old, mut rounds) = (Value::Null, Rounds::default());
        for _ in 0..2 {
            let webhooks = &self.webhooks;
            let changed = webhooks.mutate(&api, request, &hooks, &mut rounds, &mut object, &old);
            if !changed.await? {
                break;
            }
            rounds.begin_second(false);
        }
        let hooks = self.asked(&api, Kind::Validating, request).await?;
        self.webhooks
            .validate(&api, request, &hooks, &object, &old)
            .await?;
        Ok(object)
    }
}
