use super::*;
use crate::control::Manifests;

const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Ingress]}\n";
const DENY_EGRESS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress]}\n";
const GROUP: &str = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\n\
    metadata: {name: office}\nspec: {externalCIDRs: [192.0.2.0/24]}\n";
const KEY: &str = "NetworkPolicy/shop/deny";

struct Fixture {
    data: tempfile::TempDir,
    applied: Arc<Applied>,
}

impl Fixture {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let applied = Applied::open(data.path(), "boot").unwrap();
        Self { data, applied }
    }

    fn snapshot(&self) -> Snapshot {
        Manifests::new(self.applied.folder()).poll().unwrap()
    }

    fn apply(&self, text: &str, within: Option<Duration>) -> Result<Change, Error> {
        self.applied.apply(&self.snapshot(), text, &[], within)
    }

    fn reopened(self, boot: &str) -> Self {
        let applied = Applied::open(self.data.path(), boot).unwrap();
        Self { applied, ..self }
    }
}

#[test]
fn objects_are_added_replaced_and_removed() {
    let fixture = Fixture::new();
    let change = fixture.apply(&format!("{DENY}---\n{GROUP}"), None).unwrap();
    assert_eq!(change.added, ["CiliumCIDRGroup//office", KEY]);
    assert!(change.is_in(&fixture.snapshot()));
    assert_eq!(fixture.snapshot().groups.len(), 1);

    let change = fixture.apply(DENY_EGRESS, None).unwrap();
    assert_eq!((change.added.len(), &change.replaced[..]), (0, &[KEY.to_owned()][..]));
    assert!(change.is_in(&fixture.snapshot()));
    assert_eq!(fixture.snapshot().policies.len(), 1);

    let remove = [KEY.to_owned()];
    let before = fixture.snapshot();
    let change = fixture.applied.apply(&before, "", &remove, None).unwrap();
    assert!(!change.is_in(&before) && change.is_in(&fixture.snapshot()));
    assert!(fixture.snapshot().policies.is_empty());
    let again = fixture.applied.apply(&before, "", &remove, None);
    assert!(matches!(again, Err(Error::Unknown(_))));
}

#[test]
fn nothing_of_a_bad_change_is_made() {
    let fixture = Fixture::new();
    fixture.apply(GROUP, None).unwrap();
    let before = fixture.snapshot();
    let wrong = DENY.replace("podSelector", "podSelektor");
    let error = fixture.apply(&format!("{DENY}---\n{wrong}"), None).unwrap_err().to_string();
    assert!(error.contains("document 2") && error.contains("podSelektor"), "{error}");
    let twice = fixture.apply(&format!("{DENY}---\n{DENY_EGRESS}"), None);
    assert!(twice.unwrap_err().to_string().contains("twice"));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    assert!(fixture.apply(pod, None).unwrap_err().to_string().contains("exactly one"));
    assert!(matches!(fixture.apply("# nothing\n", None), Err(Error::Nothing)));
    // What the control source defines is not ours to replace.
    let theirs = document::parse("theirs", DENY).objects;
    let foreign = fixture.applied.apply(&theirs, DENY, &[], None);
    assert!(matches!(foreign, Err(Error::Foreign(key)) if key == KEY));
    assert_eq!(fixture.snapshot(), before);
}

#[test]
fn a_change_is_kept_or_taken_back() {
    let fixture = Fixture::new();
    fixture.apply(DENY, None).unwrap();
    let minute = Some(Duration::from_secs(60));
    fixture.apply(DENY_EGRESS, minute).unwrap();
    assert!(fixture.applied.reverts_in().unwrap() > Duration::from_secs(50));
    assert!(matches!(fixture.apply(GROUP, None), Err(Error::Waiting(_))));
    assert!(fixture.applied.confirm().unwrap());
    assert!(!fixture.applied.confirm().unwrap() && !fixture.applied.revert("late").unwrap());
    assert!(fixture.snapshot().policies[0].spec.contains("Egress"));

    fixture.apply(DENY, minute).unwrap();
    assert!(fixture.snapshot().policies[0].spec.contains("Ingress"));
    assert!(fixture.applied.revert("a test").unwrap());
    assert!(fixture.snapshot().policies[0].spec.contains("Egress"));
}

#[test]
fn a_kill_at_any_step_leaves_one_or_the_other() {
    let minute = Some(Duration::from_secs(60));
    let state = |fixture: &Fixture| {
        let text = fixture.applied.text().unwrap();
        (text.contains("Ingress"), text.contains("Egress"), fixture.applied.reverts_in().is_some())
    };
    // Killed before the change itself was written: nothing has changed, and taking it back changes nothing.
    let fixture = Fixture::new();
    fixture.apply(DENY, None).unwrap();
    let before = fixture.applied.text().unwrap();
    fixture.apply(DENY_EGRESS, minute).unwrap();
    fs::write(fixture.applied.path(), &before).unwrap();
    let fixture = fixture.reopened("another");
    assert_eq!(state(&fixture), (true, false, false));
    // Killed after it was taken back, before that was forgotten.
    fixture.apply(DENY_EGRESS, minute).unwrap();
    fs::rename(fixture.applied.before_path(), fixture.applied.path()).unwrap();
    let fixture = fixture.reopened("another");
    assert_eq!(state(&fixture), (true, false, true), "its time is not over");
    assert!(fixture.applied.revert("a test").unwrap());
    assert_eq!(state(&fixture), (true, false, false));
    // Killed while it was confirmed.
    fixture.apply(DENY_EGRESS, minute).unwrap();
    fs::remove_file(fixture.applied.pending_path()).unwrap();
    let fixture = fixture.reopened("yet another");
    assert_eq!(state(&fixture), (false, true, false));
    fixture.apply(DENY, minute).unwrap();
    assert!(fixture.applied.revert("a test").unwrap());
    assert_eq!(state(&fixture), (false, true, false), "what was left is not taken for it");
}

#[test]
fn time_runs_over_restarts() {
    let fixture = Fixture::new();
    fixture.apply(DENY, Some(Duration::from_secs(60))).unwrap();
    // Restarted within the time, nothing happens; after another boot, it is over.
    let fixture = fixture.reopened("boot");
    assert_eq!(fixture.snapshot().policies.len(), 1);
    let fixture = fixture.reopened("another");
    assert!(fixture.snapshot().policies.is_empty() && fixture.applied.reverts_in().is_none());

    fixture.apply(DENY, Some(Duration::from_millis(1))).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let fixture = fixture.reopened("another");
    assert!(fixture.snapshot().policies.is_empty());
}
