//! From lines to stages: what stands where, and which rules of style it meets.

use crate::instruction::{self, Parsed, Request};
use crate::lexer::{Lexer, Logical};
use crate::lint::{self, Read};
use crate::{
    Dockerfile, Instruction, InstructionKind, ParseError, ParseErrors, Span, Spanned, Stage, heredoc,
};

/// Largest file that is read; BuildKit's limit for what a client may send it in one message is of the same order.
pub(crate) const MAX_FILE_BYTES: usize = 16 << 20;

/// Most mistakes reported for one file: after that many it is no Dockerfile.
const MAX_ERRORS: usize = 20;

pub(crate) fn parse_partly(text: &[u8]) -> (Dockerfile, Option<ParseErrors>) {
    let refused = |error: ParseError| {
        let mut reader = Reader::default();
        reader.fail(error);
        reader.finish(Lexer::new(b""))
    };
    if text.is_empty() {
        return refused(ParseError::EmptyFile);
    }
    if text.len() > MAX_FILE_BYTES {
        return refused(ParseError::FileTooLong { limit: MAX_FILE_BYTES });
    }
    let mut lexer = Lexer::new(text);
    let mut reader = Reader::default();
    while reader.errors.len() < MAX_ERRORS {
        match lexer.next_logical() {
            Ok(Some(line)) => reader.instruction(&mut lexer, line),
            Ok(None) => break,
            Err(error) => {
                reader.seen = true;
                reader.fail(error);
            }
        }
    }
    reader.finish(lexer)
}

pub(crate) fn parse_trigger(text: &str) -> Result<Instruction, ParseErrors> {
    if text.is_empty() {
        return Err(ParseError::EmptyFile.into());
    }
    let mut lexer = Lexer::new(text.as_bytes());
    let Some(mut line) = lexer.next_logical()? else {
        return Err(ParseError::NoInstructions { span: lexer.end() }.into());
    };
    let bodies = heredocs(&mut lexer, &mut line)?;
    let mut request = instruction::request(&line, lexer.escape())?;
    instruction::refuse_trigger(&request)?;
    request.heredocs = bodies;
    let Parsed::Other(kind) = request.parse()? else {
        return Err(ParseError::ForbiddenTrigger { instruction: "FROM", span: line.span }.into());
    };
    if let Some(more) = lexer.next_logical()? {
        return Err(ParseError::SeveralInstructions { span: more.span }.into());
    }
    let original = line.text().as_str().to_owned();
    Ok(Instruction { kind, span: line.span, original, comment: line.comment })
}

/// Reads the bodies of the heredocs that `line` opens.
fn heredocs(lexer: &mut Lexer<'_>, line: &mut Logical) -> Result<Vec<crate::Heredoc>, ParseError> {
    let request = instruction::request(line, lexer.escape());
    if !request.is_ok_and(|request| request.may_have_heredocs()) {
        return Ok(Vec::new());
    }
    let delimiters = heredoc::in_line(line.text().as_str());
    delimiters.into_iter().map(|delimiter| lexer.heredoc(delimiter, line)).collect()
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reader {
    global_args: Vec<Spanned<Vec<crate::ArgPair>>>,
    global_comments: Vec<Vec<String>>,
    stages: Vec<Stage>,
    /// With the instructions that they stand in.
    errors: Vec<(ParseError, Span)>,
    /// Where instructions with blank lines in them end.
    blank_continuations: Vec<Span>,
    /// Whether there was any instruction, right or wrong.
    seen: bool,
    /// Whether a FROM was wrong, so that what follows is no stage's.
    lost_stage: bool,
}

impl Reader {
    fn instruction(&mut self, lexer: &mut Lexer<'_>, mut line: Logical) {
        self.seen = true;
        // Without the heredocs' lines, but with blank ones that nothing follows.
        let own = line.span;
        let result = heredocs(lexer, &mut line).and_then(|bodies| {
            let mut request = Request::new(line.text(), lexer.escape())?;
            request.heredocs = bodies;
            let is_from = request.keyword == "FROM";
            if line.has_empty_continuation {
                self.blank_continuations.push(Span { start: own.end, line: own.end_line, ..own });
            }
            request.parse().inspect_err(|_| self.lost_stage |= is_from)
        });
        match result {
            Ok(parsed) => self.take(parsed, &mut line),
            Err(error) => self.errors.push((error, line.span)),
        }
    }

    /// Keeps an error whose place is all that it stands in.
    fn fail(&mut self, error: ParseError) {
        let span = error.span();
        self.errors.push((error, span));
    }

    fn take(&mut self, parsed: Parsed, line: &mut Logical) {
        let span = line.span;
        let original = line.text().as_str().to_owned();
        let comment = std::mem::take(&mut line.comment);
        let kind = match parsed {
            Parsed::From(from) => {
                self.stages.push(Stage {
                    name: from.name,
                    base: from.base,
                    platform: from.platform,
                    after: from.after,
                    original,
                    comment,
                    span,
                    instructions: Vec::new(),
                });
                return;
            }
            Parsed::Other(kind) => kind,
        };
        match (self.stages.last_mut(), kind) {
            (Some(stage), kind) => {
                stage.instructions.push(Instruction { kind, span, original, comment });
            }
            (None, InstructionKind::Arg(value)) => {
                self.global_args.push(Spanned { value, span });
                self.global_comments.push(comment);
            }
            (None, _) if self.lost_stage => {}
            (None, _) => {
                self.lost_stage = true;
                let instruction = Request::new(line.text(), '\\').map_or("RUN", |request| request.keyword);
                self.fail(ParseError::BeforeFirstStage { instruction, span });
            }
        }
    }

    fn finish(mut self, lexer: Lexer<'_>) -> (Dockerfile, Option<ParseErrors>) {
        let span = lexer.end();
        if self.errors.is_empty() && !self.seen {
            self.fail(ParseError::NoInstructions { span });
        } else if self.errors.is_empty() && self.stages.is_empty() {
            self.fail(ParseError::NoStages { span });
        }
        let read = match self.errors.first() {
            Some((_, instruction)) => Read::Until(instruction.line),
            None => Read::Whole,
        };
        let mut file = Dockerfile {
            directives: lexer.into_directives(),
            global_args: self.global_args,
            global_comments: self.global_comments,
            warnings: Vec::new(),
            stages: self.stages,
        };
        file.warnings = lint::in_text(&file, &self.blank_continuations, read);
        (file, (!self.errors.is_empty()).then_some(ParseErrors::new(self.errors)))
    }
}
