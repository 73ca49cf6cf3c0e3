use super::*;

fn epoch(text: &str, args: &[(&str, &str)]) -> Result<Option<EpochSource>, PlanError> {
    source_date_epoch(&parse(text), &with_args(args))
}

#[test]
fn the_epoch_is_an_argument_or_a_global_default_of_one() {
    let text = "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n";
    assert_eq!(epoch(text, &[]).unwrap(), Some(EpochSource::Seconds(5)));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "7")]).unwrap(), Some(EpochSource::Seconds(7)));
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "")]).unwrap(), None);
    assert_eq!(epoch("FROM scratch\nARG SOURCE_DATE_EPOCH=5\n", &[]).unwrap(), None);
    let context = EpochSource::Context("context".into());
    assert_eq!(epoch(text, &[("SOURCE_DATE_EPOCH", "context")]).unwrap(), Some(context));
}

#[test]
fn the_epoch_may_be_that_of_a_stage_with_one_remote_add() {
    let args = [("SOURCE_DATE_EPOCH", "Src"), ("V", "2")];
    let text = "FROM scratch AS src\nARG V=1\nADD https://x.org/a-$V.tar /\nFROM scratch\n";
    let Ok(Some(EpochSource::Url { url, .. })) = epoch(text, &args) else { panic!("no URL") };
    assert_eq!(url, "https://x.org/a-2.tar");
    let problem = |text: &str| told(&epoch(text, &args).unwrap_err());
    assert_snapshot!(problem("FROM scratch\n"), @"invalid SOURCE_DATE_EPOCH: Src");
    assert_snapshot!(
        problem("FROM base AS src\nADD https://x.org/a /\n"),
        @"line 1: SOURCE_DATE_EPOCH stage must use FROM scratch"
    );
    assert_snapshot!(
        problem("FROM scratch AS src\nCOPY a /\n"),
        @"line 1: SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction"
    );
}
