//! What expressions ask about rights: the authorizer of the server, whose answers may take their time.
//!
//! Expressions are evaluated at once, without waiting. Who decides at once is asked while they are; where somebody else has
//! to be asked (an authorization webhook), the evaluation ends with what it has, the answers are waited for, and it begins anew.

use std::sync::{Mutex, MutexGuard, PoisonError};

use corral_api::selector::{FieldSelector, LabelSelector};
use corral_cel::authorizer::{self, Check, Target};
use futures::FutureExt;

use crate::authn::User;
use crate::authz::{Access, Authorizer, Decision, Requirement};

#[derive(Default)]
struct Asked {
    answers: Vec<(Check, authorizer::Decision)>,
    open: Vec<Check>,
}

/// What the user of a request, and service accounts, may do. Each question is asked once for a request.
pub struct Rights<'a> {
    authorizer: &'a Authorizer,
    user: &'a User,
    asked: Mutex<Asked>,
}

impl<'a> Rights<'a> {
    /// Of the user of a request.
    pub fn of(user: &'a User, authorizer: &'a Authorizer) -> Self {
        Self {
            authorizer,
            user,
            asked: Mutex::default(),
        }
    }

    /// Evaluates something, again as long as it asks what nobody has answered yet. That ends: an evaluation can pay for a
    /// few questions only.
    pub async fn settle<T>(&self, mut evaluate: impl FnMut() -> T) -> T {
        loop {
            let value = evaluate();
            let open = std::mem::take(&mut self.asked().open);
            if open.is_empty() {
                return value;
            }
            drop(value);
            for check in open {
                let answer = self.decide(&check).await;
                self.asked().answers.push((check, answer));
            }
        }
    }

    async fn decide(&self, check: &Check) -> authorizer::Decision {
        let access = access(check);
        let (decision, reason) = match &check.service_account {
            None => self.authorizer.decide(self.user, &access).await,
            Some((namespace, name)) => {
                let of_namespace = format!("system:serviceaccounts:{namespace}");
                let user = User {
                    name: format!("system:serviceaccount:{namespace}:{name}"),
                    groups: vec!["system:serviceaccounts".to_owned(), of_namespace],
                    ..User::default()
                };
                self.authorizer.decide(&user, &access).await
            }
        };
        authorizer::Decision {
            allowed: decision == Decision::Allow,
            reason,
            error: None,
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl authorizer::Authorizer for Rights<'_> {
    fn check(&self, check: &Check) -> authorizer::Decision {
        let mut asked = self.asked();
        if let Some((_, answer)) = asked.answers.iter().find(|(known, _)| known == check) {
            return answer.clone();
        }
        if let Some(answer) = self.decide(check).now_or_never() {
            asked.answers.push((check.clone(), answer.clone()));
            return answer;
        }
        if !asked.open.contains(check) {
            asked.open.push(check.clone());
        }
        // Nobody sees this one.
        authorizer::Decision {
            error: Some("not decided yet".to_owned()),
            ..Default::default()
        }
    }
}

fn access(check: &Check) -> Access {
    let verb = check.verb.clone();
    match &check.target {
        Target::Path(path) => Access {
            verb,
            path: path.clone(),
            ..Access::default()
        },
        Target::Resource(resource) => {
            let fields = FieldSelector::parse(&resource.field_selector).unwrap_or_default();
            let labels = LabelSelector::parse(&resource.label_selector);
            Access {
                verb,
                group: resource.group.clone(),
                version: "*".to_owned(),
                resource: resource.resource.clone(),
                subresource: resource.subresource.clone(),
                namespace: resource.namespace.clone(),
                name: resource.name.clone(),
                path: String::new(),
                fields: Requirement::of_fields(&fields),
                labels: labels.map_or_else(|_| Vec::new(), |found| Requirement::of_labels(&found)),
            }
        }
    }
}
