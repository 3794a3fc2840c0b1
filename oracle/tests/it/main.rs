//! The kept answers of kube-apiserver against Corral's server.

use corral_oracle::target::Target;
use corral_oracle::{compare, open, record};

/// The least that the corpus must hold.
const REQUESTS_MIN: usize = 20_000;
/// How many lines a failure shows.
const SHOWN_MAX: usize = 30;
/// Requests whose kept answer is of a cache that had not seen the write before it: a server that is as late gives the same.
const RACES: [&str; 1] = ["admission/restricted v1.20/1-POST pods?dryRun=All"];

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_kube_apiserver_but_for_the_open_list() {
    let kept = record::read(&record::answers()).expect("the answers are kept");
    assert!(kept.len() >= REQUESTS_MIN, "{}", kept.len());
    let requests: Vec<_> = kept.iter().map(|pair| pair.request.clone()).collect();
    let server = Target::ours().await.expect("a server");
    let answers = server.ask_all(&requests).await.expect("answers");
    let found = compare::differences(&kept, &answers);
    let known = open::read(&record::open()).expect("the list is there");

    let new = found
        .iter()
        .filter(|(name, difference)| known.get(*name).is_none_or(|kind| kind != difference.kind))
        .map(|(name, difference)| format!("{name}\n     {difference}"))
        .take(SHOWN_MAX)
        .collect::<Vec<_>>();
    assert!(new.is_empty(), "new differences:\n{}", new.join("\n"));
    let mended = known
        .keys()
        .filter(|name| !found.contains_key(*name) && !RACES.contains(&name.as_str()))
        .take(SHOWN_MAX)
        .collect::<Vec<_>>();
    assert!(
        mended.is_empty(),
        "these differ no more; run `cargo xtask oracle -- --write-open`: {mended:#?}"
    );
}
