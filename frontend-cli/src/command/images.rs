//! `kiln images`.

use kiln::images::Images;
use kiln::{ImageRecord, ImageRef};

use super::image_filter::ImageFilters;
use crate::args::ImagesArgs;
use crate::report::Failure;
use crate::{human, template};

pub(super) fn run(args: &ImagesArgs, images: &Images) -> Result<u8, Failure> {
    let wanted = args.name.as_deref().map(Wanted::parse).transpose()?;
    let now = jiff::Timestamp::now();
    let filters = ImageFilters::parse(&args.filters, images, now.as_second())?;
    let mut rows = Vec::new();
    for image in images.list()? {
        if wanted.as_ref().is_none_or(|wanted| wanted.matches(&image)) {
            let config = images.config(&image)?;
            if filters.keep(&image, &config) {
                rows.push(Row { image, created: config.created });
            }
        }
    }
    super::print(&show(args, &rows, now)?)?;
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

impl Row {
    fn object(&self, args: &ImagesArgs, now: jiff::Timestamp) -> serde_json::Value {
        let (repository, tag) = names(self.image.name.as_ref());
        serde_json::json!({
            "Containers": "N/A",
            "CreatedAt": self.created,
            "CreatedSince": human::ago(self.created.as_deref(), now),
            "Digest": self.image.remote_digest.map_or_else(|| NONE.to_owned(), |digest| digest.to_string()),
            "ID": match args.no_trunc {
                true => self.image.config.to_string(),
                false => super::short_id(&self.image.config),
            },
            "Repository": repository,
            "SharedSize": "N/A",
            "Size": human::size(self.image.size_bytes),
            "Tag": tag,
            "UniqueSize": "N/A",
        })
    }
}

fn show(args: &ImagesArgs, rows: &[Row], now: jiff::Timestamp) -> Result<String, Failure> {
    let format = match args.format.as_str() {
        _ if args.quiet => "{{.ID}}",
        "table" if args.digests => {
            r"table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
        "table" => r"table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        format => format,
    };
    let objects: Vec<_> = rows.iter().map(|row| row.object(args, now)).collect();
    let head = serde_json::json!({
        "Containers": "CONTAINERS",
        "CreatedAt": "CREATED AT",
        "CreatedSince": "CREATED",
        "Digest": "DIGEST",
        "ID": "IMAGE ID",
        "Repository": "REPOSITORY",
        "SharedSize": "SHARED SIZE",
        "Size": "SIZE",
        "Tag": "TAG",
        "UniqueSize": "UNIQUE SIZE",
    });
    Ok(template::render_all(format, &objects, &head)?)
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
