//! Reads the policy that every RPC states in its proto file, and refuses what is missing or contradictory.
//! The build script runs the same code, so that a wrong policy never compiles.

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// Who may call an RPC at all. See `proto/nitejar/policy/v1/policy.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anybody, without a credential.
    Public,
    /// A signed-in person, not bound to one organization.
    User,
    /// A member or key of the organization in the path.
    Tenant,
    /// Our operators.
    Operator,
    /// The runner in a Sprite.
    Runner,
    /// Another of our services.
    Internal,
}

/// How lately the caller must have shown who they are. See `proto/nitejar/policy/v1/policy.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Whenever it was.
    #[default]
    Any,
    /// A browser must have signed in a moment ago.
    Browser,
    /// A person must have signed in, or made their key, a moment ago.
    Person,
}

/// The HTTP side of an RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpBinding {
    /// `GET`, `PUT`, `POST`, `DELETE` or `PATCH`.
    pub verb: &'static str,
    /// Path template, such as `/v1/orgs/{org_id}:leave`.
    pub template: String,
    /// `*`: the body is the whole request; a field's name: that field; empty: no body.
    pub body: String,
}

/// What one RPC states about itself.
#[derive(Clone, Debug)]
pub struct MethodPolicy {
    /// gRPC path, such as `/nitejar.tenancy.v1.Orgs/CreateOrg`.
    pub path: String,
    /// Service name with package, such as `nitejar.tenancy.v1.Orgs`.
    pub service: String,
    /// RPC name.
    pub method: String,
    /// Who may call.
    pub scope: Scope,
    /// Required permission; TENANT only.
    pub permission: Option<String>,
    /// Audit action of a mutation.
    pub audit: Option<String>,
    /// Counts as an API call.
    pub metered: bool,
    /// May be repeated without a further effect.
    pub idempotent: bool,
    /// A mutation that works also while the organization is suspended.
    pub while_suspended: bool,
    /// How lately the caller must have shown who they are.
    pub fresh: Freshness,
    /// No organization's key may call it.
    pub people_only: bool,
    /// HTTP route; none for INTERNAL.
    pub http: Option<HttpBinding>,
}

impl MethodPolicy {
    /// The upstream that serves it: `tenancy`, `billing`, `sprites`, `audit` or `common` (all of them).
    pub fn upstream(&self) -> &str {
        self.service.split('.').nth(1).unwrap_or_default()
    }
}

/// All policies of a descriptor pool, or every problem found.
pub fn read(pool: &DescriptorPool) -> Result<Vec<MethodPolicy>, Vec<String>> {
    let mut problems = Vec::new();
    let mut policies: Vec<MethodPolicy> = Vec::new();
    for service in pool.services().filter(|s| s.full_name().starts_with("nitejar.")) {
        for method in service.methods() {
            match read_method(pool, &method) {
                Ok(policy) => {
                    check(&policy, &method, &mut problems);
                    let same = |p: &&MethodPolicy| p.http.is_some() && key(p) == key(&policy);
                    if let Some(other) = policies.iter().find(same) {
                        problems.push(format!("{}: same route as {}", policy.path, other.path));
                    }
                    policies.push(policy);
                }
                Err(problem) => problems.push(format!("{}: {problem}", method.full_name())),
            }
        }
    }
    if problems.is_empty() { Ok(policies) } else { Err(problems) }
}

/// Routes that differ only in variable names are the same route.
fn key(policy: &MethodPolicy) -> Option<(&'static str, String)> {
    let http = policy.http.as_ref()?;
    let mut shape = String::new();
    let mut depth = 0;
    for c in http.template.chars() {
        match c {
            '{' => {
                depth += 1;
                shape.push_str("{}");
            }
            '}' => depth -= 1,
            _ if depth == 0 => shape.push(c),
            _ => {}
        }
    }
    Some((http.verb, shape))
}

fn read_method(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<MethodPolicy, String> {
    let extension = pool
        .get_extension_by_name("nitejar.policy.v1.policy")
        .ok_or("the policy extension is not in the descriptor set")?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return Err("has no (nitejar.policy.v1.policy); see docs/ADDING-AN-RPC.md".into());
    }
    let value = options.get_extension(&extension);
    let policy = value.as_message().ok_or("the policy is not a message")?;
    let text = |name: &str| Some(string(policy, name)).filter(|s| !s.is_empty());
    let flag = |name: &str| policy.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false);
    let scope = match policy.get_field_by_name("scope").and_then(|v| v.as_enum_number()) {
        Some(1) => Scope::Public,
        Some(2) => Scope::User,
        Some(3) => Scope::Tenant,
        Some(4) => Scope::Operator,
        Some(5) => Scope::Runner,
        Some(6) => Scope::Internal,
        _ => return Err("its policy has no scope".into()),
    };
    Ok(MethodPolicy {
        path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
        service: method.parent_service().full_name().to_owned(),
        method: method.name().to_owned(),
        scope,
        permission: text("permission"),
        audit: text("audit"),
        metered: flag("metered"),
        idempotent: flag("idempotent"),
        while_suspended: flag("while_suspended"),
        fresh: match policy.get_field_by_name("fresh").and_then(|v| v.as_enum_number()) {
            None | Some(0) => Freshness::Any,
            Some(1) => Freshness::Browser,
            Some(2) => Freshness::Person,
            Some(_) => return Err("its policy has a freshness that nobody knows".into()),
        },
        people_only: flag("people_only"),
        http: read_http(pool, &options)?,
    })
}

fn read_http(pool: &DescriptorPool, options: &DynamicMessage) -> Result<Option<HttpBinding>, String> {
    let extension = pool
        .get_extension_by_name("google.api.http")
        .ok_or("google.api.http is not in the descriptor set")?;
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    let value = options.get_extension(&extension);
    let rule = value.as_message().ok_or("google.api.http is not a message")?;
    for (field, verb) in
        [("get", "GET"), ("put", "PUT"), ("post", "POST"), ("delete", "DELETE"), ("patch", "PATCH")]
    {
        let template = string(rule, field);
        if !template.is_empty() {
            return Ok(Some(HttpBinding { verb, template, body: string(rule, "body") }));
        }
    }
    Err("its google.api.http has none of get, put, post, delete, patch".into())
}

fn string(message: &DynamicMessage, name: &str) -> String {
    message.get_field_by_name(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn check(p: &MethodPolicy, method: &MethodDescriptor, problems: &mut Vec<String>) {
    let mut refuse = |wrong: bool, why: &str| {
        if wrong {
            problems.push(format!("{}: {why}", p.path));
        }
    };
    let tenant = p.scope == Scope::Tenant;
    let internal = p.scope == Scope::Internal;
    refuse(tenant && p.permission.is_none(), "TENANT scope needs a permission");
    refuse(!tenant && p.permission.is_some(), "only TENANT scope has a permission");
    let unknown = p.permission.as_deref().is_some_and(|name| !crate::permission::is_known(name));
    refuse(unknown, "its permission is not in crates/proto/src/permission.rs");
    refuse(p.metered && !tenant, "only TENANT scope is metered");
    refuse(
        p.fresh != Freshness::Any && !matches!(p.scope, Scope::Tenant | Scope::User),
        "fresh is for what people do",
    );
    refuse(p.people_only && !tenant, "people_only is for TENANT scope");
    refuse(
        p.while_suspended && (!tenant || p.audit.is_none()),
        "while_suspended is for TENANT mutations: reads work anyway",
    );
    refuse(
        p.while_suspended && p.metered,
        "what lessens access or risk is not metered: used-up API calls must not be in its way",
    );
    refuse(internal && p.http.is_some(), "INTERNAL scope has no HTTP route");
    refuse(!internal && p.http.is_none(), "every scope but INTERNAL needs google.api.http");
    refuse(
        !p.idempotent && !internal && p.audit.is_none(),
        "what is not idempotent is a mutation and needs an audit action",
    );
    if let Some(http) = &p.http {
        let get = http.verb == "GET";
        refuse(get && p.idempotent && p.audit.is_some(), "a read has no audit action");
        refuse(!get && p.audit.is_none() && p.scope != Scope::Runner, "a mutation needs an audit action");
        refuse(get && !http.body.is_empty(), "a GET has no body");
        refuse(
            tenant && !http.template.starts_with("/v1/orgs/{org_id}"),
            "a TENANT route starts with /v1/orgs/{org_id}",
        );
        refuse(
            p.scope == Scope::Operator && !http.template.starts_with("/v1/operator/"),
            "an OPERATOR route starts with /v1/operator/",
        );
        refuse(
            p.scope == Scope::Runner && !http.template.starts_with("/v1/runner/"),
            "a RUNNER route starts with /v1/runner/",
        );
        check_fields(&p.path, &method.input(), problems, 0);
    }
}

/// Every text of a request is bounded, every list too.
fn check_fields(
    path: &str,
    message: &prost_reflect::MessageDescriptor,
    problems: &mut Vec<String>,
    depth: u8,
) {
    if depth > 8 || message.full_name().starts_with("google.protobuf.") {
        return;
    }
    for field in message.fields() {
        let rules = field_rules(&field);
        let name = format!("{path}: {}.{}", message.name(), field.name());
        let is_text = matches!(field.kind(), prost_reflect::Kind::String | prost_reflect::Kind::Bytes);
        if is_text && rules.max_len == 0 && rules.id.is_empty() && rules.one_of.is_empty() {
            problems.push(format!("{name} has no bound: give rules with max_len, id or one_of"));
        }
        if (field.is_list() || field.is_map()) && rules.max_items == 0 {
            problems.push(format!("{name} has no bound: give rules with max_items"));
        }
        if !rules.pattern.is_empty() && rules.says.is_empty() {
            problems.push(format!("{name} has a pattern and no words for it: give rules with says"));
        }
        if field.is_map() && (rules.key_pattern.is_empty() || rules.max_len == 0) {
            problems.push(format!("{name} is not bounded: give rules with key_pattern and max_len"));
        }
        if !matches!(rules.from.as_str(), "" | "address" | "user_agent") && !rules.from.starts_with("cookie/")
        {
            problems.push(format!("{name}: from is not cookie/NAME, address or user_agent"));
        }
        if let prost_reflect::Kind::Message(inner) = field.kind()
            && !field.is_map()
        {
            check_fields(path, &inner, problems, depth + 1);
        }
    }
}

/// The bounds that a field states; all empty when it states none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRules {
    /// Must be present and not empty.
    pub required: bool,
    /// Shortest text in characters.
    pub min_len: u32,
    /// Longest text in characters, bytes for `bytes`; 0: no bound here.
    pub max_len: u32,
    /// Prefix of a typed id; empty: not an id.
    pub id: String,
    /// Regular expression for the whole text; empty: none.
    pub pattern: String,
    /// The allowed texts; empty: any.
    pub one_of: Vec<String>,
    /// Smallest number.
    pub min: i64,
    /// Largest number; 0: no bound here.
    pub max: i64,
    /// Most items or entries; 0: no bound here.
    pub max_items: u32,
    /// Shown once, never logged.
    pub sensitive: bool,
    /// Filled by the gateway: `cookie/NAME`, `address` or `user_agent`; empty: by the caller.
    pub from: String,
    /// Leaves as a cookie: `NAME/SECONDS`; empty: in the body.
    pub to_cookie: String,
    /// Regular expression for the names of a map's entries; empty: none.
    pub key_pattern: String,
    /// Something of it shows, and nothing hides.
    pub visible: bool,
    /// What the pattern asks for, in words that follow `must be`.
    pub says: String,
}

/// Reads `(nitejar.policy.v1.rules)` of a field.
pub fn field_rules(field: &prost_reflect::FieldDescriptor) -> FieldRules {
    let Some(extension) = field.parent_pool().get_extension_by_name("nitejar.policy.v1.rules") else {
        return FieldRules::default();
    };
    let options = field.options();
    let value = options.get_extension(&extension);
    let Some(rules) = value.as_message() else { return FieldRules::default() };
    let get = |name: &str| rules.get_field_by_name(name);
    let number = |name: &str| get(name).and_then(|v| v.as_u32()).unwrap_or(0);
    FieldRules {
        required: get("required").and_then(|v| v.as_bool()).unwrap_or(false),
        min_len: number("min_len"),
        max_len: number("max_len"),
        id: string(rules, "id"),
        pattern: string(rules, "pattern"),
        one_of: get("one_of")
            .and_then(|v| {
                v.as_list().map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            })
            .unwrap_or_default(),
        min: get("min").and_then(|v| v.as_i64()).unwrap_or(0),
        max: get("max").and_then(|v| v.as_i64()).unwrap_or(0),
        max_items: number("max_items"),
        sensitive: get("sensitive").and_then(|v| v.as_bool()).unwrap_or(false),
        from: string(rules, "from"),
        to_cookie: string(rules, "to_cookie"),
        key_pattern: string(rules, "key_pattern"),
        visible: get("visible").and_then(|v| v.as_bool()).unwrap_or(false),
        says: string(rules, "says"),
    }
}
