//! `docs/benchmarks.md` as a head and sections, of which a run replaces only what it measured.
//!
//! A section begins with a `##` heading. The tool knows its own by their headings; all others are somebody's prose and stay
//! as they are, where they are.

use super::Part;

/// The page.
pub struct Document {
    /// What stands before the first section.
    head: String,
    sections: Vec<Section>,
}

/// A heading without its marks, and what stands below it.
#[derive(Clone)]
pub struct Section {
    pub heading: String,
    pub text: String,
}

impl Section {
    /// The part of the tool that writes it.
    fn part(&self) -> Option<Part> {
        Part::ALL
            .into_iter()
            .find(|part| part.is_headed(&self.heading))
    }
}

impl Document {
    pub fn parse(text: &str) -> Self {
        let mut document = Self {
            head: String::new(),
            sections: Vec::new(),
        };
        let mut is_code = false;
        for line in text.split_inclusive('\n') {
            is_code ^= line.starts_with("```");
            if let Some(heading) = line.strip_prefix("## ").filter(|_| !is_code) {
                document.sections.push(Section {
                    heading: heading.trim().to_owned(),
                    text: String::new(),
                });
                continue;
            }
            match document.sections.last_mut() {
                Some(section) => section.text.push_str(line),
                None => document.head.push_str(line),
            }
        }
        document
    }

    pub fn set_head(&mut self, head: &str) {
        head.clone_into(&mut self.head);
    }

    pub fn has_head(&self) -> bool {
        !self.head.trim().is_empty()
    }

    /// Puts what a part wrote in the place of what it wrote before. What it never wrote comes behind the parts that are
    /// measured before it.
    pub fn put(&mut self, part: Part, section: Section) {
        let is_of = |part: Part| move |section: &Section| section.part() == Some(part);
        let at = self.sections.iter().position(is_of(part));
        let at = at.unwrap_or_else(|| {
            let is_before = |section: &Section| section.part().is_some_and(|other| other < part);
            let before = self.sections.iter().rposition(is_before);
            before.map_or(0, |before| before + 1)
        });
        let behind = self.sections.split_off(at);
        self.sections.push(section);
        self.sections.extend(
            behind
                .into_iter()
                .filter(|section| section.part() != Some(part)),
        );
    }

    pub fn render(&self) -> String {
        let mut text = self.head.trim_end().to_owned();
        for section in &self.sections {
            text.push_str("\n\n## ");
            text.push_str(&section.heading);
            text.push_str("\n\n");
            text.push_str(section.text.trim_matches('\n'));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# Benchmarks

Made at commit old.

## Load on the API

| old load |

## Where the time goes

By hand.

```
## Growth
of a profile
```

- a list
    - in a list

## 100000 pods stored

Measured on its own at commit older.

| old many |

## A note

Also by hand.
";

    fn section(heading: &str, text: &str) -> Section {
        Section {
            heading: heading.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_page_that_nothing_is_put_into_stays_as_it_is() {
        assert_eq!(Document::parse(PAGE).render(), PAGE);
    }

    #[test]
    fn only_the_section_of_the_part_is_replaced_where_it_stands() {
        let mut page = Document::parse(PAGE);
        page.put(Part::Load, section("Load on the API", "| new load |\n"));
        assert_eq!(page.render(), PAGE.replace("| old load |", "| new load |"));
    }

    #[test]
    fn a_section_is_known_by_its_heading_whatever_number_is_in_it() {
        let mut page = Document::parse(PAGE);
        page.put(Part::Many, section("2000 pods stored", "| new many |\n"));
        let expected = PAGE
            .replace("100000 pods", "2000 pods")
            .replace("Measured on its own at commit older.\n\n", "")
            .replace("| old many |", "| new many |");
        assert_eq!(page.render(), expected);
    }

    #[test]
    fn a_section_that_was_not_there_comes_behind_those_measured_before_it() {
        let mut page = Document::parse(PAGE);
        page.put(Part::Growth, section("Growth", "| growth |\n"));
        page.put(Part::Start, section("Start, idle and pods", "| start |\n"));
        let expected = PAGE
            .replace("## Load", "## Start, idle and pods\n\n| start |\n\n## Load")
            .replace("## A note", "## Growth\n\n| growth |\n\n## A note");
        assert_eq!(page.render(), expected);
    }

    #[test]
    fn prose_survives_a_run_of_every_part_and_a_new_head() {
        let mut page = Document::parse(PAGE);
        page.set_head("# Benchmarks\n\nMade at commit new.\n");
        for part in Part::ALL {
            let heading = part.heading(7);
            page.put(part, section(&heading, "| new |\n"));
        }
        let text = page.render();
        assert!(!text.contains("old"), "{text}");
        for kept in [
            "## Where the time goes\n\nBy hand.\n\n```\n## Growth\nof a profile\n```\n\n- a list\n    - in a list\n\n## ",
            "## A note\n\nAlso by hand.\n",
        ] {
            assert!(text.contains(kept), "{text}");
        }
        assert_eq!(text.matches("| new |").count(), Part::ALL.len());
        assert_eq!(Document::parse(&text).render(), text);
    }

    #[test]
    fn a_part_that_stands_there_twice_is_left_once() {
        let mut page = Document::parse("# B\n\n## 5 nodes\n\none\n\n## 50 nodes\n\ntwo\n");
        page.put(Part::Nodes, section("9 nodes", "new\n"));
        assert_eq!(page.render(), "# B\n\n## 9 nodes\n\nnew\n");
    }
}
