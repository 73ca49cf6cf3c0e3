//! `docs/lint.md` is held to what it says: every rule is there, finds its bad example and leaves its good one alone.

use std::collections::BTreeMap;

use kiln_image::{ImageRef, Platform};
use kiln_parser::ignore::IgnoreRules;
use kiln_parser::{Checks, lint};
use kiln_solver::plan::{self, BaseError, BaseImage, PlanRequest};

const PAGE: &str = include_str!("../../../docs/lint.md");

/// A rule's section.
#[derive(Debug, Default)]
struct Section {
    name: String,
    bad: Vec<String>,
    good: Vec<String>,
}

fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut example: Option<String> = None;
    for line in PAGE.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            sections.push(Section { name: name.to_owned(), ..Section::default() });
        }
        match (&mut example, line) {
            (None, "```dockerfile") => example = Some(String::new()),
            (Some(_), "```") => {
                let text = example.take().unwrap();
                let section = sections.last_mut().unwrap();
                // The first comment is the page's and not the file's: it could be taken for a description.
                match text.split_once('\n').unwrap() {
                    ("# bad", text) => section.bad.push(text.to_owned()),
                    ("# good", text) => section.good.push(text.to_owned()),
                    (first, _) => panic!("{}: `{first}` is neither good nor bad", section.name),
                }
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    sections
}

/// The rules that find something, by a plan and not only a check: with all of them asked for.
fn found(text: &str) -> Vec<&'static str> {
    let file = kiln_parser::parse(text.as_bytes()).unwrap();
    let mut checks = Checks::of(&file).unwrap();
    checks.enable("all").unwrap();
    // Arguments that the examples leave out.
    let build_args = BTreeMap::from([("TAG".to_owned(), "12".to_owned())]);
    let request = PlanRequest {
        build_args,
        ignore: IgnoreRules::parse(b"*.log\n").unwrap(),
        ..PlanRequest::new("linux/amd64".parse().unwrap())
    };
    let plan = plan::plan(&file, &request, &mut base).unwrap();
    file.findings(&checks, &plan.warnings).iter().map(|warning| warning.rule).collect()
}

/// An image of any name.
fn base(image: &ImageRef, platform: &Platform) -> Result<BaseImage, BaseError> {
    let mut base = BaseImage::stand_in(&image.to_string(), platform);
    if image.to_string().contains("other-platform") {
        base.config.architecture = "s390x".into();
    }
    Ok(base)
}

#[test]
fn every_rule_has_a_section_in_the_order_of_the_list() {
    let named: Vec<_> = sections().into_iter().map(|section| section.name).collect();
    let rules: Vec<_> = lint::RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(named, rules);
}

#[test]
fn each_bad_example_is_found_and_each_good_one_is_clean() {
    let mut wrong = Vec::new();
    for section in sections() {
        assert!(!section.bad.is_empty() && !section.good.is_empty(), "{} lacks an example", section.name);
        for text in &section.bad {
            let found = found(text);
            if !found.contains(&section.name.as_str()) {
                wrong.push(format!("{}: bad, but only {found:?}:\n{text}", section.name));
            }
        }
        for text in &section.good {
            let found = found(text);
            if !found.is_empty() {
                wrong.push(format!("{}: good, but {found:?}:\n{text}", section.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
