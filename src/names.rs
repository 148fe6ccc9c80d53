//! Names of option values: formatting, parsing and serialization.

use std::{fmt, str::FromStr};

use crate::{engine::Pooling, kernels::KvType, model::Precision, text::Role};

/// An error from parsing the name of an option value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?} (supported: {supported})")]
#[non_exhaustive]
pub struct UnknownName {
    /// The kind of value.
    pub what: &'static str,
    /// The name that was parsed.
    pub name: String,
    /// The supported names.
    pub supported: String,
}

/// Implements `Display`, `FromStr` and, with the feature `serde`, serialization by name.
macro_rules! named {
    ($($ty:ty: $what:literal),* $(,)?) => {
        $(impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $ty {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.into_iter().find(|value| value.name() == name).ok_or_else(|| UnknownName {
                    what: $what,
                    name: name.to_owned(),
                    supported: Self::ALL.map(Self::name).join(", "),
                })
            }
        }

        #[cfg(feature = "serde")]
        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        #[cfg(feature = "serde")]
        #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        })*
    };
}

named! {
    KvType: "KV cache type",
    Pooling: "pooling",
    Precision: "precision",
    Role: "role",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for ty in KvType::ALL {
            assert_eq!(ty.to_string().parse(), Ok(ty));
        }
        for pooling in Pooling::ALL {
            assert_eq!(pooling.to_string().parse(), Ok(pooling));
        }
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let error = "q8".parse::<KvType>().expect_err("no such type");
        assert_eq!(error.to_string(), "unknown KV cache type \"q8\" (supported: f16, f32, q8_0)");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn values_are_serialized_by_name() {
        use serde::{
            Deserialize,
            de::{IntoDeserializer, value},
        };
        let deserializer: value::StrDeserializer<'_, value::Error> = "q8_0".into_deserializer();
        assert_eq!(KvType::deserialize(deserializer), Ok(KvType::Q8_0));
    }
}
