//! `kiln images`.

use kiln::images::Images;
use kiln::{ImageRecord, ImageRef};

use crate::args::ImagesArgs;
use crate::human;
use crate::report::Failure;
use crate::table::table;

pub(super) fn run(args: &ImagesArgs, images: &Images) -> Result<u8, Failure> {
    let wanted = args.name.as_deref().map(Wanted::parse).transpose()?;
    let mut rows = Vec::new();
    for image in images.list()? {
        if wanted.as_ref().is_none_or(|wanted| wanted.matches(&image)) {
            let created = images.config(&image)?.created;
            rows.push(Row { image, created });
        }
    }
    super::print(&show(args, &rows, jiff::Timestamp::now()))?;
    Ok(0)
}

/// `REPOSITORY[:TAG]`.
struct Wanted {
    name: ImageRef,
    any_tag: bool,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Failure> {
        let name: ImageRef =
            text.parse().map_err(|error: kiln::InvalidReference| Failure::usage(error.to_string()))?;
        let last = text.rsplit('/').next().unwrap_or(text);
        Ok(Self { name, any_tag: !last.contains([':', '@']) })
    }

    fn matches(&self, image: &ImageRecord) -> bool {
        image.name.as_ref().is_some_and(|name| {
            name.registry() == self.name.registry()
                && name.repository() == self.name.repository()
                && (self.any_tag || name.tag() == self.name.tag())
        })
    }
}

struct Row {
    image: ImageRecord,
    created: Option<String>,
}

fn show(args: &ImagesArgs, rows: &[Row], now: jiff::Timestamp) -> String {
    let id = |row: &Row| match args.no_trunc {
        true => row.image.config.to_string(),
        false => super::short_id(&row.image.config),
    };
    if args.quiet {
        return rows.iter().map(|row| format!("{}\n", id(row))).collect();
    }
    let digest =
        |row: &Row| row.image.remote_digest.map_or_else(|| NONE.to_owned(), |digest| digest.to_string());
    if args.format == "json" {
        return rows
            .iter()
            .map(|row| {
                let (repository, tag) = names(row.image.name.as_ref());
                let object = serde_json::json!({
                    "Containers": "N/A",
                    "CreatedAt": row.created,
                    "CreatedSince": human::ago(row.created.as_deref(), now),
                    "Digest": digest(row),
                    "ID": id(row),
                    "Repository": repository,
                    "SharedSize": "N/A",
                    "Size": human::size(row.image.size_bytes),
                    "Tag": tag,
                    "UniqueSize": "N/A",
                });
                format!("{object}\n")
            })
            .collect();
    }
    let mut head = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        head.insert(2, "DIGEST");
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (repository, tag) = names(row.image.name.as_ref());
            let created = human::ago(row.created.as_deref(), now);
            let mut cells = vec![repository, tag, id(row), created, human::size(row.image.size_bytes)];
            if args.digests {
                cells.insert(2, digest(row));
            }
            cells
        })
        .collect();
    table(&head, &rows)
}

/// Repository and tag as a user writes them.
fn names(name: Option<&ImageRef>) -> (String, String) {
    let Some(name) = name else { return (NONE.to_owned(), NONE.to_owned()) };
    let repository = match name.registry() {
        "docker.io" => name.repository().strip_prefix("library/").unwrap_or(name.repository()).to_owned(),
        registry => format!("{registry}/{}", name.repository()),
    };
    (repository, name.tag().unwrap_or(NONE).to_owned())
}

const NONE: &str = "<none>";
