//! Which paths of a peer carry data.
//!
//! The paths of the best tier that works carry it together. While all of them are doubted, the next tier carries it too,
//! so that there is another path to send copies by. When none works, the lossy ones carry it, then those of which nothing
//! is known yet, then the least bad one alone: no path that leads somewhere is left unused while there is nothing better.

use std::{cmp::Reverse, time::Duration};

use multipath_common::{
    health::{Health, Reason, Role},
    maps::{PATH_DOUBTED, PATH_DOWN, PATH_STANDBY, PATH_UP},
};

/// What the choice goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `Probing`, `Up`, `Lossy`, `Stalled` or `Down`.
    pub health: Health,
    /// Why.
    pub reason: Reason,
    /// The role in force; `Automatic` is `Active`.
    pub role: Role,
    /// Who says so.
    pub role_reason: Reason,
    /// Whether it leads somewhere: interface, address and route are there.
    pub has_link: bool,
    /// Whether nothing is known against it yet.
    pub is_fresh: bool,
    /// Packets lost in the last seconds in the worse direction, parts per million.
    pub loss_ppm: u32,
    /// When the last answer came, time since boot; zero: never.
    pub answered_at: Duration,
}

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it is, beside the others.
    pub health: Health,
    /// Why.
    pub reason: Reason,
    /// [`PATH_DOWN`] (without link), [`PATH_STANDBY`], [`PATH_UP`] or [`PATH_DOUBTED`].
    pub state: u32,
    /// Whether it carries data.
    pub is_used: bool,
    /// Whether it is used for nothing but copies, because all paths of a better tier are doubted: their flows stay where
    /// they are.
    pub is_spare: bool,
}

/// Lossy paths carry data together while none loses more than twice as many packets as the best of them, and this.
const SIMILAR_LOSS_PPM: u32 = 20_000;

/// Decides for all paths of a peer, in their order. `was_used`: whether each carried data so far; of paths that are
/// equally bad the one that is used stays.
pub fn choose(paths: &[Candidate], was_used: &[bool]) -> Vec<Verdict> {
    let used = used(paths, was_used);
    let best_tier = paths.iter().zip(&used).filter(|(_, is_used)| **is_used).filter_map(|(path, _)| tier(path)).min();
    let verdict = |number: usize| {
        let path = &paths[number];
        let (is_used, is_disabled) = (used[number], tier(path).is_none());
        let has_other = (0..paths.len()).any(|other| other != number && used[other]);
        let state = match (path.has_link, is_used) {
            (false, _) => PATH_DOWN,
            (true, false) => PATH_STANDBY,
            (true, true) if path.health == Health::Stalled && has_other => PATH_DOUBTED,
            (true, true) => PATH_UP,
        };
        let (health, reason) = match path.health {
            _ if is_disabled => (Health::Disabled, path.role_reason),
            Health::Up | Health::Stalled if !is_used => (Health::Backup, Reason::BetterTier),
            health => (health, path.reason),
        };
        Verdict { health, reason, state, is_used, is_spare: is_used && tier(path) > best_tier }
    };
    (0..paths.len()).map(verdict).collect()
}

/// The role as a number: smaller is better. `None`: it must not carry data.
fn tier(path: &Candidate) -> Option<u32> {
    match path.role {
        Role::Automatic | Role::Active => Some(0),
        Role::Backup => Some(1),
        Role::Metered => Some(2),
        Role::Down => None,
    }
}

fn used(paths: &[Candidate], was_used: &[bool]) -> Vec<bool> {
    let usable = |path: &&Candidate| path.has_link && tier(path).is_some();
    let works = |path: &Candidate| matches!(path.health, Health::Up | Health::Stalled);
    let best = |is_meant: &dyn Fn(&Candidate) -> bool| {
        paths.iter().filter(usable).filter(|path| is_meant(path)).filter_map(tier).min()
    };
    let all = |is_meant: &dyn Fn(&Candidate) -> bool| -> Vec<bool> {
        paths.iter().map(|path| usable(&path) && is_meant(path)).collect()
    };
    if let Some(last) = best(&|path| path.health == Health::Up) {
        // Better tiers whose paths are all doubted included.
        return all(&|path| works(path) && tier(path) <= Some(last));
    }
    if let Some(tier_of_doubted) = best(&works) {
        return all(&|path| works(path) && tier(path) == Some(tier_of_doubted));
    }
    if let Some(tier_of_lossy) = best(&|path| path.health == Health::Lossy) {
        let is_lossy = |path: &Candidate| path.health == Health::Lossy && tier(path) == Some(tier_of_lossy);
        let least = paths.iter().filter(usable).filter(|path| is_lossy(path)).map(|path| path.loss_ppm).min();
        let most = least.unwrap_or_default().saturating_mul(2).saturating_add(SIMILAR_LOSS_PPM);
        return all(&|path| is_lossy(path) && path.loss_ppm <= most);
    }
    let is_unknown = |path: &Candidate| path.health == Health::Probing && path.is_fresh;
    if let Some(tier_of_unknown) = best(&is_unknown) {
        return all(&|path| is_unknown(path) && tier(path) == Some(tier_of_unknown));
    }
    let merit = |number: &usize| {
        let path = &paths[*number];
        let is_proving = path.health == Health::Probing;
        let was_used = was_used.get(*number).copied().unwrap_or_default();
        (is_proving, Reverse(tier(path)), path.answered_at, was_used, Reverse(*number))
    };
    let least_bad = (0..paths.len()).filter(|number| usable(&&paths[*number])).max_by_key(merit);
    (0..paths.len()).map(|number| Some(number) == least_bad).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(health: Health, role: Role) -> Candidate {
        Candidate {
            health,
            reason: Reason::Answers,
            role,
            role_reason: Reason::Configuration,
            has_link: true,
            is_fresh: false,
            loss_ppm: 0,
            answered_at: Duration::ZERO,
        }
    }

    fn states(paths: &[Candidate]) -> Vec<u32> {
        choose(paths, &vec![false; paths.len()]).iter().map(|verdict| verdict.state).collect()
    }

    #[test]
    fn the_best_tier_carries() {
        use Role::{Active, Automatic, Backup, Metered};
        let paths = [
            path(Health::Up, Active),
            path(Health::Up, Automatic),
            path(Health::Up, Backup),
            path(Health::Up, Metered),
            path(Health::Lossy, Active),
            path(Health::Up, Role::Down),
        ];
        let verdicts = choose(&paths, &[false; 6]);
        let used: Vec<bool> = verdicts.iter().map(|verdict| verdict.is_used).collect();
        assert_eq!(used, [true, true, false, false, false, false]);
        assert_eq!((verdicts[2].health, verdicts[2].reason), (Health::Backup, Reason::BetterTier));
        assert_eq!((verdicts[5].health, verdicts[5].reason), (Health::Disabled, Reason::Configuration));
        assert_eq!(verdicts[5].state, PATH_STANDBY);
    }

    #[test]
    fn a_doubted_path_gets_another_one_beside_it() {
        let (stalled, up) = (path(Health::Stalled, Role::Active), path(Health::Up, Role::Active));
        let backup = path(Health::Up, Role::Backup);
        assert_eq!(states(&[stalled, up, backup]), [PATH_DOUBTED, PATH_UP, PATH_STANDBY]);
        assert_eq!(states(&[stalled, stalled, backup]), [PATH_DOUBTED, PATH_DOUBTED, PATH_UP]);
        assert_eq!(states(&[stalled, path(Health::Down, Role::Active)]), [PATH_UP, PATH_STANDBY]);
        assert_eq!(states(&[stalled, stalled, stalled]), [PATH_DOUBTED; 3]);
        assert_eq!(states(&[up, path(Health::Stalled, Role::Backup)]), [PATH_UP, PATH_STANDBY]);
        let spares = |paths: &[Candidate]| -> Vec<bool> {
            choose(paths, &vec![false; paths.len()]).iter().map(|verdict| verdict.is_spare).collect()
        };
        assert_eq!(spares(&[stalled, backup, path(Health::Up, Role::Metered)]), [false, true, false]);
        assert_eq!(spares(&[path(Health::Down, Role::Active), backup, stalled]), [false, true, false]);
        assert_eq!(spares(&[path(Health::Down, Role::Active), backup]), [false, false]);
    }

    #[test]
    fn when_none_works_the_least_bad_carries() {
        let lossy = |loss_ppm| Candidate { loss_ppm, ..path(Health::Lossy, Role::Active) };
        let down = |answered_at| Candidate {
            answered_at: Duration::from_secs(answered_at),
            ..path(Health::Down, Role::Active)
        };
        assert_eq!(states(&[lossy(200_000), lossy(300_000), lossy(600_000)]), [PATH_UP, PATH_UP, PATH_STANDBY]);
        assert_eq!(states(&[down(7), lossy(900_000)]), [PATH_STANDBY, PATH_UP]);
        assert_eq!(states(&[down(7), down(9), down(8)]), [PATH_STANDBY, PATH_UP, PATH_STANDBY]);
        assert_eq!(states(&[down(7), path(Health::Probing, Role::Active)]), [PATH_STANDBY, PATH_UP]);
        assert_eq!(states(&[down(7), Candidate { has_link: false, ..down(9) }]), [PATH_UP, PATH_DOWN]);
        let stays = choose(&[down(0), down(0), down(0)], &[false, true, false]);
        assert_eq!(stays.iter().map(|verdict| verdict.is_used).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn at_the_start_all_are_tried() {
        let fresh = |role| Candidate { is_fresh: true, ..path(Health::Probing, role) };
        assert_eq!(
            states(&[fresh(Role::Active), fresh(Role::Active), fresh(Role::Metered)]),
            [PATH_UP, PATH_UP, PATH_STANDBY]
        );
        assert_eq!(states(&[fresh(Role::Active), path(Health::Up, Role::Backup)]), [PATH_STANDBY, PATH_UP]);
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        use Health::{Down, Lossy, Probing, Stalled, Up};
        (
            prop::sample::select(vec![Probing, Up, Lossy, Stalled, Down]),
            prop::sample::select(Role::ALL.to_vec()),
            any::<(bool, bool, u32, u8)>(),
        )
            .prop_map(|(health, role, (has_link, is_fresh, loss_ppm, answered_at))| Candidate {
                has_link,
                is_fresh,
                loss_ppm: loss_ppm % 1_000_001,
                answered_at: Duration::from_secs(answered_at.into()),
                ..path(if has_link { health } else { Down }, role)
            })
    }

    /// How good a path is that carries data: smaller is better.
    fn grade(path: &Candidate) -> u32 {
        match path.health {
            Health::Up | Health::Stalled => 0,
            Health::Lossy => 1,
            Health::Probing if path.is_fresh => 2,
            _ => 3,
        }
    }

    proptest! {
        #[test]
        fn the_best_that_there_is_carries(paths in prop::collection::vec(candidate(), 0..8), was_used: [bool; 8]) {
            let verdicts = choose(&paths, &was_used[..paths.len()]);
            let usable: Vec<&Candidate> = paths.iter().filter(|path| path.has_link && path.role != Role::Down).collect();
            let used: Vec<&Candidate> = paths.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_used).map(|(path, _)| path).collect();
            prop_assert_eq!(used.is_empty(), usable.is_empty());
            let best = usable.iter().map(|path| grade(path)).min();
            prop_assert!(used.iter().all(|path| Some(grade(path)) == best));
            prop_assert!(best != Some(3) || used.len() == 1, "one bad path is enough");
            for path in &used {
                prop_assert!(path.has_link && path.role != Role::Down);
                let is_better = |other: &&&Candidate| grade(other) == grade(path) && other.health != Health::Stalled && tier(other) < tier(path);
                prop_assert!(best == Some(3) || usable.iter().find(is_better).is_none(), "of a worse tier");
            }
            for (path, verdict) in paths.iter().zip(&verdicts) {
                prop_assert_eq!(verdict.state == PATH_DOWN, !path.has_link);
                prop_assert_eq!(verdict.state == PATH_DOUBTED, verdict.is_used && path.health == Health::Stalled && used.len() > 1);
                prop_assert_eq!(verdict.is_used, [PATH_UP, PATH_DOUBTED].contains(&verdict.state));
                prop_assert_eq!(verdict.health == Health::Disabled, path.role == Role::Down);
                prop_assert!(verdict.health != Health::Backup || used.iter().any(|used| tier(used) < tier(path)));
            }
        }

        /// What is chosen is chosen again.
        #[test]
        fn the_choice_is_stable(paths in prop::collection::vec(candidate(), 0..8), was_used: [bool; 8]) {
            let first = choose(&paths, &was_used[..paths.len()]);
            let used: Vec<bool> = first.iter().map(|verdict| verdict.is_used).collect();
            prop_assert_eq!(choose(&paths, &used), first);
        }
    }
}
