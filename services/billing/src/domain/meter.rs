//! What is counted.

/// A meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meter {
    /// Jobs of a month.
    Jobs,
    /// Agents existing at a time.
    Agents,
    /// API calls of a month.
    ApiCalls,
}

impl Meter {
    /// All meters, in the order of reports.
    pub const ALL: [Meter; 3] = [Meter::Jobs, Meter::Agents, Meter::ApiCalls];

    /// The name in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Agents => "agents",
            Self::ApiCalls => "api_calls",
        }
    }

    /// The meter of that name.
    pub fn parse(name: &str) -> Option<Meter> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    /// Whether it counts what exists, and so has no months.
    pub fn is_live(self) -> bool {
        self == Self::Agents
    }
}
