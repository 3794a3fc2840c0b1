//! Tokens that an administrator wrote into a file: `token,user,uid,"group1,group2"` on each line.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{AUTHENTICATED, User};

/// Users by the hashes of their tokens: looking one up tells nothing about others by the time that it takes.
#[derive(Debug, Default)]
pub struct TokenFile(HashMap<[u8; 32], User>);

impl TokenFile {
    /// Reads what a file says.
    ///
    /// # Errors
    /// When a line of it makes no sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() {
                continue;
            }
            // A line may hold a token, so that it is never told.
            let number = index + 1;
            let fields = fields(line).ok_or(format!("line {number}: a quote is not closed"))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!(
                    "line {number}: there must be at least 3 columns (token, user name, user uid), not {}",
                    fields.len()
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = number, "a token is empty and left out");
                continue;
            }
            let groups = rest.first().map_or("", String::as_str).split(',');
            let groups = groups.map(str::trim).filter(|group| !group.is_empty());
            let mut groups: Vec<String> = groups.map(str::to_owned).collect();
            groups.push(AUTHENTICATED.to_owned());
            let user = User {
                name: name.clone(),
                uid: uid.clone(),
                groups,
                ..User::default()
            };
            if users.insert(hash(token), user).is_some() {
                tracing::warn!(line = number, "a token is there twice; this one counts");
            }
        }
        Ok(Self(users))
    }

    /// The user of a token.
    pub fn user(&self, token: &str) -> Option<&User> {
        self.0.get(&hash(token))
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The fields of a line of comma-separated values.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = line;
    loop {
        let trimmed = rest.trim_start();
        let (field, tail) = match trimmed.strip_prefix('"') {
            None => match rest.split_once(',') {
                Some((field, tail)) => (field.to_owned(), Some(tail)),
                None => (rest.to_owned(), None),
            },
            Some(mut quoted) => {
                let mut field = String::new();
                loop {
                    let (text, tail) = quoted.split_once('"')?;
                    field.push_str(text);
                    match tail.strip_prefix('"') {
                        Some(tail) => {
                            field.push('"');
                            quoted = tail;
                        }
                        None => match tail.strip_prefix(',') {
                            Some(tail) => break (field, Some(tail)),
                            None if tail.is_empty() => break (field, None),
                            None => return None,
                        },
                    }
                }
            }
        };
        out.push(field);
        match tail {
            Some(tail) => rest = tail,
            None => return Some(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_users_and_their_groups() {
        let text =
            "t1,jane,7\n\nt2,joe,8,\"devs, ops\",ignored\nt3,\"a \"\"b\"\"\",9,one\n,nobody,0\n";
        let file = TokenFile::parse(text).expect("valid");
        let user = |token| file.user(token).expect("known");
        assert_eq!(
            (user("t1").name.as_str(), user("t1").uid.as_str()),
            ("jane", "7")
        );
        assert_eq!(user("t1").groups, [AUTHENTICATED]);
        assert_eq!(user("t2").groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(user("t3").name, "a \"b\"");
        assert!(file.user("").is_none() && file.user("t4").is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_telling_a_token() {
        for text in ["secret,jane", "secret", "\"secret,jane,7"] {
            let error = TokenFile::parse(text).expect_err("refused");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
