use corral_runtime::testing::object;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn endpoints(subsets: Value) -> Arc<Endpoints> {
    Arc::new(object(json!({
        "metadata": {
            "name": "db", "namespace": "ns", "uid": "e", "labels": {"team": "a"},
            "annotations": {"note": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "subsets": subsets,
    })))
}

fn world(endpoints: Arc<Endpoints>) -> World {
    let service = object(json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {}}));
    World {
        endpoints: Some(endpoints),
        service: Some(Arc::new(service)),
        slices: vec![],
    }
}

/// Carries a plan out on the slices of a world.
fn applied(world: &mut World, names: &mut usize) {
    let plan = plan(world);
    let same = |a: &EndpointSlice, b: &EndpointSlice| a.metadata.name == b.metadata.name;
    world
        .slices
        .retain(|slice| !plan.delete.iter().any(|gone| same(slice, gone)));
    for update in plan.update {
        let mut slices = world.slices.iter_mut();
        let slice = slices.find(|slice| same(slice, &update));
        *slice.expect("only known slices change") = Arc::new(update);
    }
    for mut slice in plan.create {
        *names += 1;
        slice.metadata.name = Some(format!("s{names}"));
        world.slices.push(Arc::new(slice));
    }
}

/// Every address with a port of the slices, and whether it is ready.
fn held(world: &World) -> BTreeMap<(String, i32), bool> {
    let mut held = BTreeMap::new();
    for slice in &world.slices {
        let mut ports: Vec<_> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| port.port)
            .collect();
        if ports.is_empty() {
            ports.push(0);
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready);
            for port in &ports {
                let key = (endpoint.addresses[0].clone(), *port);
                let before = held.insert(key, ready.expect("is set"));
                assert!(before.is_none(), "an address with a port is in one slice");
            }
        }
    }
    held
}

proptest! {
    #[test]
    fn slices_hold_what_the_endpoints_say_and_settle(
        rounds in prop::collection::vec(
            prop::collection::vec((
                prop::collection::btree_set(1..4_i32, 0..3),
                prop::collection::vec((0..6_u8, any::<bool>()), 0..5),
            ), 0..4),
            1..4,
        ),
    ) {
        let mut world = world(endpoints(json!([])));
        let mut names = 0;
        for round in rounds {
            let mut expected: BTreeMap<(String, i32), bool> = BTreeMap::new();
            let subsets = round.iter().map(|(ports, addresses)| {
                // Even addresses are of the one family, odd ones of the other.
                let text = |n: u8| if n.is_multiple_of(2) { format!("10.0.0.{n}") } else { format!("fd00::{n}") };
                let listed = |wanted: bool| {
                    let listed = addresses.iter().filter(|(_, ready)| *ready == wanted);
                    listed.map(|(n, _)| json!({"ip": text(*n)})).collect::<Vec<_>>()
                };
                let numbers: Vec<_> = if ports.is_empty() { vec![0] } else { ports.iter().copied().collect() };
                for (n, ready) in addresses {
                    for port in &numbers {
                        let known = expected.entry((text(*n), *port)).or_insert(true);
                        *known &= *ready;
                    }
                }
                let ports = ports.iter().map(|n| json!({"name": format!("p{n}"), "port": n}));
                json!({
                    "ports": ports.collect::<Vec<_>>(), "addresses": listed(true), "notReadyAddresses": listed(false),
                })
            });
            let subsets: Vec<_> = subsets.collect();
            world.endpoints = Some(endpoints(json!(subsets)));
            applied(&mut world, &mut names);
            // Addresses without a port are told by slices with ports, if those have just the same addresses.
            let of_port = |port: i32| {
                let of_port = expected.iter().filter(move |((_, other), _)| *other == port);
                of_port.map(|((ip, _), ready)| (ip.clone(), *ready)).collect::<Vec<_>>()
            };
            if (1..4).any(|port| of_port(port) == of_port(0)) {
                expected.retain(|(_, port), _| *port != 0);
            }
            prop_assert_eq!(held(&world), expected);
            for slice in &world.slices {
                let v4 = slice.address_type == "IPv4";
                prop_assert!(slice.endpoints.iter().flatten().all(|e| e.addresses[0].contains('.') == v4));
            }
            let again = plan(&world);
            prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        }
    }
}

#[test]
fn a_slice_says_whose_it_is() {
    let subsets = json!([{"addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n"}], "ports": [{"port": 1}]}]);
    let plan = plan(&world(endpoints(subsets)));
    let slice = serde_json::to_value(&plan.create[0]).expect("JSON");
    let meta = &slice["metadata"];
    assert_eq!(
        meta["labels"],
        json!({
            "team": "a", "kubernetes.io/service-name": "db",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        })
    );
    assert_eq!(meta["annotations"], json!({"note": "b"}));
    assert_eq!(meta["generateName"], "db-");
    let owner = &meta["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("Endpoints"), &json!("e"))
    );
    let endpoint = json!({
        "addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "n",
    });
    assert_eq!(slice["endpoints"], json!([endpoint]));
}

#[test]
fn what_is_not_to_be_mirrored_loses_its_slices() {
    let subsets = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]);
    let mut mirrored = world(endpoints(subsets.clone()));
    applied(&mut mirrored, &mut 0);
    assert_eq!(mirrored.slices.len(), 1);
    let with = |change: &dyn Fn(&mut World)| {
        let mut world = World {
            endpoints: mirrored.endpoints.clone(),
            service: mirrored.service.clone(),
            slices: mirrored.slices.clone(),
        };
        change(&mut world);
        plan(&world).delete.len()
    };
    let meta = |world: &mut World, change: &dyn Fn(&mut ObjectMeta)| {
        let mut endpoints = (**world.endpoints.as_ref().expect("has one")).clone();
        change(&mut endpoints.metadata);
        world.endpoints = Some(Arc::new(endpoints));
    };
    assert_eq!(with(&|_| {}), 0);
    assert_eq!(with(&|world| world.endpoints = None), 1);
    assert_eq!(with(&|world| world.service = None), 1);
    let labelled = |meta: &mut ObjectMeta| {
        meta.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
    };
    assert_eq!(with(&|world| meta(world, &labelled)), 1);
    let elects = |meta: &mut ObjectMeta| {
        meta.annotations = Some([(LEADER.to_owned(), "{}".to_owned())].into());
    };
    assert_eq!(with(&|world| meta(world, &elects)), 1);
    let selecting =
        json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {"selector": {"a": "b"}}});
    assert_eq!(
        with(&|world| world.service = Some(Arc::new(object(selecting.clone())))),
        1
    );
}

#[test]
fn a_thousand_addresses_are_mirrored_and_the_ready_ones_first() {
    let address = |n: usize| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)});
    let (ready, unready): (Vec<_>, Vec<_>) = (0..1100).map(address).partition(|a| {
        let ip = a["ip"].as_str().expect("text");
        ip.ends_with('1')
    });
    let n_ready = ready.len();
    let subsets =
        json!([{"addresses": ready, "notReadyAddresses": unready, "ports": [{"port": 1}]}]);
    let plan = plan(&world(endpoints(subsets)));
    let endpoints = plan.create[0].endpoints.as_ref().expect("some");
    assert_eq!((plan.create.len(), endpoints.len()), (1, 1000));
    let is_ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    assert_eq!(endpoints.iter().filter(is_ready).count(), n_ready);
    assert_eq!(plan.warnings[0].0, "TooManyAddressesToMirror");
    assert!(plan.warnings[0].1.ends_with("100 addresses were skipped"));
}
