use super::*;

fn event(n: u32) -> Event {
    Event {
        id: format!("evt_{n}"),
        org_id: "org_1".into(),
        sequence: 0,
        occurred_at: DateTime::from_timestamp(1_700_000_000 + i64::from(n), 120_000_000).unwrap(),
        actor_kind: "user".into(),
        actor_id: "user_1".into(),
        action: "agent.created".into(),
        target_kind: "agent".into(),
        target_id: format!("agent_{n}"),
        outcome: "success".into(),
        request_id: "req_1".into(),
        service: "sprites".into(),
        details: BTreeMap::from([
            ("handle".into(), "a \"b\"\n\u{1f600}".into()),
            ("é".into(), String::new()),
        ]),
        prev_hash: String::new(),
        hash: String::new(),
    }
}

fn chain(n: u32) -> Vec<Event> {
    let mut head = Head::START;
    (0..n)
        .map(|i| {
            let mut e = event(i);
            head.append(&mut e);
            e
        })
        .collect()
}

fn check(events: &[Event]) -> Result<Head, Broken> {
    let mut head = Head::START;
    events.iter().try_for_each(|e| head.check(e))?;
    Ok(head)
}

#[test]
fn the_canonical_form_is_what_the_readme_says() {
    let mut e = event(0);
    Head::START.clone().append(&mut e);
    assert_eq!(
        e.canonical(),
        "{\"action\":\"agent.created\",\"actor_id\":\"user_1\",\"actor_kind\":\"user\",\"details\":{\"handle\":\"a \\\"b\\\"\\n\u{1f600}\",\"é\":\"\"},\"id\":\"evt_0\",\"occurred_at\":\"2023-11-14T22:13:20.120000Z\",\"org_id\":\"org_1\",\"outcome\":\"success\",\"prev_hash\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"request_id\":\"req_1\",\"sequence\":1,\"service\":\"sprites\",\"target_id\":\"agent_0\",\"target_kind\":\"agent\"}"
    );
    // An independent judge: the same value through serde_json's sorted map.
    let mut value = serde_json::to_value(&e).unwrap();
    value.as_object_mut().unwrap().remove("hash");
    value["occurred_at"] = "2023-11-14T22:13:20.120000Z".into();
    assert_eq!(value.to_string(), e.canonical());
}

#[test]
fn an_untouched_chain_holds() {
    let events = chain(50);
    let head = check(&events).unwrap();
    assert_eq!((head.sequence, hex::encode(head.hash)), (50, events[49].hash.clone()));
}

#[test]
fn every_change_of_every_field_is_noticed() {
    let changes: &[fn(&mut Event)] = &[
        |e| e.id.push('x'),
        |e| e.org_id.push('x'),
        |e| e.sequence += 1,
        |e| e.occurred_at += chrono::Duration::microseconds(1),
        |e| e.actor_kind.push('x'),
        |e| e.actor_id.push('x'),
        |e| e.action.push('x'),
        |e| e.target_kind.push('x'),
        |e| e.target_id.push('x'),
        |e| e.outcome.push('x'),
        |e| e.request_id.push('x'),
        |e| e.service.push('x'),
        |e| {
            e.details.insert("new".into(), String::new());
        },
        |e| e.prev_hash = e.hash.clone(),
        |e| e.hash = e.prev_hash.clone(),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut events = chain(5);
        change(&mut events[2]);
        assert_eq!(check(&events).unwrap_err().at, 3, "change {i}");
    }
}

#[test]
fn dropping_adding_and_swapping_are_noticed() {
    let mut dropped = chain(5);
    dropped.remove(2);
    assert_eq!(check(&dropped).unwrap_err().at, 3);
    let mut doubled = chain(5);
    doubled.insert(2, doubled[1].clone());
    assert_eq!(check(&doubled).unwrap_err().at, 3);
    let mut swapped = chain(5);
    swapped.swap(2, 3);
    assert_eq!(check(&swapped).unwrap_err().at, 3);
}
