//! What policies and webhooks are asked about a write, and what becomes of their answers.

use corral_api::gvk::GroupVersionKind;
use corral_api::status::Status;
use corral_kinds::Object;
use serde_json::Value;

use super::policies::Relevant;
use super::request::{Operation, Phase, Request};
use super::rights::Rights;
use super::rounds::Rounds;
use super::webhooks::Invocation;
use super::{Action, Admission, Attributes, stopping};
use crate::api::Api;
use crate::apply::restore_managed;
use crate::registry::{Part, Resource};

const SCALE: &str = "scale";

impl<'a> Attributes<'a> {
    /// The write as policies and webhooks are asked about it; none for what the server does on its own after they were asked about
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

    /// What policies and webhooks see of an object: its scale, if that is what is written.
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
            restore_managed(old, self.old_managed.cloned());
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
        phase: Phase,
        request: &Request<'_>,
    ) -> Result<Vec<Invocation>, Status> {
        let plugin = match phase {
            Phase::Mutating => "MutatingAdmissionWebhook",
            Phase::Validating => "ValidatingAdmissionWebhook",
        };
        match self.plugins.run(plugin) {
            true => self.webhooks.relevant(api, phase, request).await,
            false => Ok(Vec::new()),
        }
    }

    /// The policies to evaluate, if that is what the administrator wants.
    async fn evaluated(
        &self,
        api: &Api,
        phase: Phase,
        request: &Request<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<Relevant, Status> {
        let plugin = match phase {
            Phase::Mutating => "MutatingAdmissionPolicy",
            Phase::Validating => "ValidatingAdmissionPolicy",
        };
        match self.plugins.run(plugin) {
            true => {
                let policies = &self.policies;
                policies.relevant(api, phase, request, object, old).await
            }
            false => Ok(Relevant::default()),
        }
    }

    /// Whether anybody has to be asked at all, so that most writes need not be shown to anybody.
    fn asks_nobody(&self, api: &Api, phase: Phase, hooks: &[Invocation]) -> bool {
        hooks.is_empty() && self.policies.are_none(api, phase)
    }

    /// Asks mutating policies and webhooks; when they have changed the object, the plugins see it again, and policies and
    /// webhooks that want to.
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
        let hooks = self.asked(api, Phase::Mutating, &request).await?;
        if self.asks_nobody(api, Phase::Mutating, &hooks) {
            return Ok(());
        }
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        let rights = Rights::of(&attributes.cx.user, &authorizer);
        let old_value = attributes.old(old)?;
        let mut round = Round {
            admission: self,
            api,
            attributes,
            request: &request,
            rights: &rights,
            hooks: &hooks,
            old_view: old_value
                .clone()
                .map(|old| attributes.view(old))
                .transpose()?
                .unwrap_or_default(),
            old_value,
            of_policies: Rounds::default(),
            of_webhooks: Rounds::default(),
        };
        let Some((after_policies, after_webhooks)) = round.run(object).await? else {
            return Ok(());
        };
        let operation = attributes.operation();
        let mut laps = self.metrics.begin(operation, "admit");
        self.built_in(api, &mut laps, attributes, object, old)
            .await?;
        laps.pass();
        let now = attributes.resource.shown(attributes, object)?;
        round.of_policies.begin_second(now != after_policies);
        round.of_webhooks.begin_second(now != after_webhooks);
        round.run(object).await.map(drop)
    }

    /// Evaluates validating policies, and asks validating webhooks.
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
        let hooks = self.asked(api, Phase::Validating, &request).await?;
        if self.asks_nobody(api, Phase::Validating, &hooks) {
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
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        let rights = Rights::of(&attributes.cx.user, &authorizer);
        self.validate_all(api, &request, &rights, &hooks, &shown, &old)
            .await
    }

    async fn validate_all(
        &self,
        api: &Api,
        request: &Request<'_>,
        rights: &Rights<'_>,
        hooks: &[Invocation],
        object: &Value,
        old: &Value,
    ) -> Result<(), Status> {
        let phase = Phase::Validating;
        let relevant = self.evaluated(api, phase, request, object, old).await?;
        if !relevant.is_empty() {
            self.policies
                .validate(api, request, rights, &relevant, object, old)
                .await?;
        }
        self.webhooks
            .validate(api, request, rights, hooks, object, old)
            .await
    }

    /// Asks policies and both kinds of webhooks about a deletion.
    pub(super) async fn ask_about_deletion(
        &self,
        api: &Api,
        request: &Request<'_>,
        old: &Value,
    ) -> Result<(), Status> {
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        let rights = Rights::of(&request.cx.user, &authorizer);
        let hooks = self.asked(api, Phase::Mutating, request).await?;
        let (mut object, mut rounds) = (Value::Null, Rounds::default());
        self.webhooks
            .mutate(
                api,
                request,
                &rights,
                (&hooks, &mut rounds),
                &mut object,
                old,
            )
            .await?;
        let hooks = self.asked(api, Phase::Validating, request).await?;
        self.validate_all(api, request, &rights, &hooks, &object, old)
            .await
    }

    /// Asks policies and webhooks about an object that is not stored: the body of a subresource, or the options of a
    /// connection. Answers what they make of it.
    ///
    /// # Errors
    /// What a policy or webhook says that refuses, or 500 for one that fails and whose failures count.
    pub async fn admit_other(
        &self,
        request: &Request<'_>,
        mut object: Value,
    ) -> Result<Value, Status> {
        let api = self.api()?;
        let authorizer = self.authorizer.get().ok_or_else(stopping)?;
        let rights = Rights::of(&request.cx.user, &authorizer);
        let hooks = self.asked(&api, Phase::Mutating, request).await?;
        let (old, phase) = (Value::Null, Phase::Mutating);
        let (mut of_policies, mut of_webhooks) = (Rounds::default(), Rounds::default());
        let mut after = (Value::Null, Value::Null);
        for second in [false, true] {
            if second {
                of_policies.begin_second(object != after.0);
                of_webhooks.begin_second(object != after.1);
            }
            let relevant = self.evaluated(&api, phase, request, &object, &old).await?;
            let mut changed = false;
            if !relevant.is_empty() {
                let policies = &self.policies;
                let asked = (request, &rights, &relevant);
                changed |= policies
                    .mutate(&api, asked, &mut of_policies, &mut object, &old, &mut Ok)
                    .await?;
            }
            after.0 = object.clone();
            changed |= self
                .webhooks
                .mutate(
                    &api,
                    request,
                    &rights,
                    (&hooks, &mut of_webhooks),
                    &mut object,
                    &old,
                )
                .await?;
            after.1 = object.clone();
            if !changed {
                break;
            }
        }
        let hooks = self.asked(&api, Phase::Validating, request).await?;
        self.validate_all(&api, request, &rights, &hooks, &object, &old)
            .await?;
        Ok(object)
    }
}

/// Asking mutating policies and webhooks about an object of a resource, once or twice.
struct Round<'a> {
    admission: &'a Admission,
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    request: &'a Request<'a>,
    rights: &'a Rights<'a>,
    hooks: &'a [Invocation],
    old_value: Option<Value>,
    old_view: Value,
    of_policies: Rounds,
    of_webhooks: Rounds,
}

impl Round<'_> {
    /// Asks all of them. Answers what the object was after the policies and after the webhooks, if anybody has changed it.
    async fn run(&mut self, object: &mut Object) -> Result<Option<(Value, Value)>, Status> {
        let (attributes, resource) = (self.attributes, self.attributes.resource);
        let (admission, api, request) = (self.admission, self.api, self.request);
        let mut shown = attributes.view(resource.shown(attributes, object)?)?;
        let old = &self.old_view;
        let phase = Phase::Mutating;
        let relevant = admission
            .evaluated(api, phase, request, &shown, old)
            .await?;
        let mut changed = false;
        if !relevant.is_empty() {
            let old_value = self.old_value.as_ref();
            let mut completed = |value: Value| {
                take(attributes, object, value, old_value)?;
                attributes.view(resource.shown(attributes, object)?)
            };
            let asked = (request, self.rights, &relevant);
            let rounds = &mut self.of_policies;
            changed |= admission
                .policies
                .mutate(api, asked, rounds, &mut shown, old, &mut completed)
                .await?;
        }
        let after_policies = resource.shown(attributes, object)?;
        let (webhooks, rounds) = (&admission.webhooks, &mut self.of_webhooks);
        let by_webhooks = webhooks
            .mutate(
                api,
                request,
                self.rights,
                (self.hooks, rounds),
                &mut shown,
                old,
            )
            .await?;
        if by_webhooks {
            take(attributes, object, shown, self.old_value.as_ref())?;
        }
        if !changed && !by_webhooks {
            return Ok(None);
        }
        let after_webhooks = resource.shown(attributes, object)?;
        Ok(Some((after_policies, after_webhooks)))
    }
}

/// Makes an object what policies or webhooks have made of what they see of it.
fn take(
    attributes: &Attributes<'_>,
    object: &mut Object,
    shown: Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let resource = attributes.resource;
    let value = match attributes.subresource {
        SCALE => scaled(resource, resource.shown(attributes, object)?, &shown),
        _ => shown,
    };
    *object = resource.changed_by_webhooks(attributes, object, value, old)?;
    Ok(())
}
