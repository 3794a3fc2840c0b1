//! Who is asked once more, because the object changed after they had seen it: there are two rounds, as in Kubernetes.

/// Which of the mutating policies, or webhooks, are asked once more. They are told apart by keys of their own.
#[derive(Default)]
pub struct Rounds {
    second: bool,
    asked: Vec<String>,
    again: Vec<String>,
}

impl Rounds {
    /// Begins the second and last round; if the object has changed since the first, whoever wants to is asked again.
    pub fn begin_second(&mut self, changed_since: bool) {
        self.second = true;
        if changed_since {
            self.changed();
        }
    }

    /// Whether this is the second round.
    pub fn is_second(&self) -> bool {
        self.second
    }

    /// Whether one is passed over in this round.
    pub fn leaves_out(&self, key: &str) -> bool {
        self.second && !self.again.iter().any(|known| known == key)
    }

    /// One of them has changed the object: those before it see it again.
    pub fn changed(&mut self) {
        self.again.append(&mut self.asked);
    }

    /// One that wants to see what becomes of the object.
    pub fn asks_again(&mut self, key: String) {
        self.asked.push(key);
    }
}
