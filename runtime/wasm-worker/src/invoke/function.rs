//! The functions of a component or a module that can be called by name.

use wasmtime::component::Type;
use wasmtime::component::types::{Component, ComponentFunc, ComponentItem};
use wasmtime::{Engine, ExternType, FuncType, Module, ValType};

use super::CallError;

/// How many functions an error lists.
const LISTED_MAX: usize = 8;

/// An exported function.
#[derive(Clone, Debug)]
pub(crate) struct Function<T> {
    /// The exported instance that holds it, `ns:package/interface@1.0.0`; `None` for one of the world itself.
    pub(crate) interface: Option<String>,
    /// Its name there.
    pub(crate) name: String,
    /// Its type.
    pub(crate) ty: T,
}

impl<T> Function<T> {
    /// The name by which it is always found: `NAME` or `INTERFACE#NAME`.
    pub(crate) fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}#{}", self.name),
            None => self.name.clone(),
        }
    }

    /// How well a name fits; the lower the better.
    ///
    /// 0: the full name. 1: the same without the version. 2: the interface's own name and the function's,
    /// `INTERFACE.NAME` or `INTERFACE#NAME`. 3: the function's name alone.
    fn fits(&self, wanted: &str) -> Option<u8> {
        let Some(interface) = &self.interface else { return (self.name == wanted).then_some(0) };
        if self.full_name() == wanted {
            return Some(0);
        }
        let unversioned = interface.split_once('@').map_or(interface.as_str(), |(name, _)| name);
        let own = unversioned.rsplit_once('/').map_or(unversioned, |(_, own)| own);
        if self.name == wanted {
            return Some(3);
        }
        let (before, name) = wanted.rsplit_once(['#', '.'])?;
        match name == self.name {
            true if before == unversioned => Some(1),
            true if before == own => Some(2),
            _ => None,
        }
    }
}

/// All functions of a component but for the methods of resources, those of the world itself first.
pub(crate) fn of_component(ty: &Component, engine: &Engine) -> Vec<Function<ComponentFunc>> {
    let mut functions = Vec::new();
    for (name, item) in ty.exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                functions.push(Function { interface: None, name: name.to_owned(), ty });
            }
            ComponentItem::ComponentInstance(instance) => {
                for (function, item) in instance.exports(engine) {
                    // `[method]bucket.get` and the like, component model explainer, "Import and Export Names".
                    if let (ComponentItem::ComponentFunc(ty), false) = (item.ty, function.starts_with('[')) {
                        let (interface, function) = (Some(name.to_owned()), function.to_owned());
                        functions.push(Function { interface, name: function, ty });
                    }
                }
            }
            _ => {}
        }
    }
    functions.sort_by_key(|function| function.interface.is_some());
    functions
}

/// The functions of a module that have only numbers in and out. Those that its tool chain or WASI call are
/// not for callers.
pub(crate) fn of_module(module: &Module) -> Vec<Function<FuncType>> {
    let numbers = |mut types: Box<dyn Iterator<Item = ValType> + '_>| {
        types.all(|ty| matches!(ty, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64))
    };
    let own = |name: &str| !matches!(name, "_start" | "_initialize") && !name.starts_with("__");
    module
        .exports()
        .filter_map(|export| match export.ty() {
            ExternType::Func(ty) if own(export.name()) => (numbers(Box::new(ty.params()))
                && numbers(Box::new(ty.results())))
            .then(|| Function { interface: None, name: export.name().to_owned(), ty }),
            _ => None,
        })
        .collect()
}

/// Whether all parameters and the result of a function have a form in JSON.
pub(crate) fn has_json_form(ty: &ComponentFunc) -> bool {
    ty.params().all(|(_, ty)| has_form(&ty)) && ty.results().all(|ty| has_form(&ty))
}

fn has_form(ty: &Type) -> bool {
    let opt = |ty: Option<Type>| ty.is_none_or(|ty| has_form(&ty));
    match ty {
        Type::Own(_) | Type::Borrow(_) | Type::Future(_) | Type::Stream(_) | Type::ErrorContext => false,
        Type::List(list) => has_form(&list.ty()),
        Type::FixedLengthList(list) => has_form(&list.ty()),
        Type::Map(map) => has_form(&map.key()) && has_form(&map.value()),
        Type::Record(record) => record.fields().all(|field| has_form(&field.ty)),
        Type::Tuple(tuple) => tuple.types().all(|ty| has_form(&ty)),
        Type::Variant(variant) => variant.cases().all(|case| opt(case.ty)),
        Type::Option(option) => has_form(&option.ty()),
        Type::Result(result) => opt(result.ok()) && opt(result.err()),
        _ => true,
    }
}

/// The function that a name means: the best fit, if no other fits as well.
pub(crate) fn find<'a, T>(functions: &'a [Function<T>], wanted: &str) -> Result<&'a Function<T>, CallError> {
    let fitting: Vec<(u8, &Function<T>)> =
        functions.iter().filter_map(|function| Some((function.fits(wanted)?, function))).collect();
    let best = fitting.iter().map(|(fit, _)| *fit).min();
    let candidates: Vec<&Function<T>> =
        fitting.iter().filter(|(fit, _)| Some(*fit) == best).map(|(_, function)| *function).collect();
    match candidates[..] {
        [function] => Ok(function),
        [] => Err(CallError::NoFunction {
            name: wanted.to_owned(),
            known: list(&functions.iter().collect::<Vec<_>>()),
        }),
        _ => Err(CallError::Ambiguous { name: wanted.to_owned(), candidates: list(&candidates) }),
    }
}

fn list<T>(functions: &[&Function<T>]) -> String {
    let named = functions.iter().take(LISTED_MAX).map(|function| format!("`{}`", function.full_name()));
    let text = named.collect::<Vec<_>>().join(", ");
    match functions.len() {
        0 => "nothing".to_owned(),
        count if count > LISTED_MAX => format!("{text} and {} more", count - LISTED_MAX),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> Vec<Function<()>> {
        let function = |interface: Option<&str>, name: &str| Function {
            interface: interface.map(str::to_owned),
            name: name.to_owned(),
            ty: (),
        };
        vec![
            function(None, "greet"),
            function(Some("shop:orders/cart@1.2.0"), "add"),
            function(Some("shop:orders/cart@1.2.0"), "greet"),
            function(Some("shop:orders/stock@1.2.0"), "add"),
            function(Some("shop:orders/stock@1.2.0"), "count"),
            function(Some("plain"), "ping"),
        ]
    }

    fn check(wanted: &str, expect: Result<&str, &str>) {
        let functions = functions();
        match (find(&functions, wanted).map(Function::full_name).map_err(|error| error.to_string()), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{wanted}"),
            (Err(error), Err(expect)) => assert_eq!(error, expect, "{wanted}"),
            (found, expect) => panic!("{wanted}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn names_that_mean_one_function() {
        // The world's own function comes before those of interfaces.
        check("greet", Ok("greet"));
        check("shop:orders/cart@1.2.0#greet", Ok("shop:orders/cart@1.2.0#greet"));
        check("shop:orders/cart#greet", Ok("shop:orders/cart@1.2.0#greet"));
        check("cart.greet", Ok("shop:orders/cart@1.2.0#greet"));
        check("stock#add", Ok("shop:orders/stock@1.2.0#add"));
        check("count", Ok("shop:orders/stock@1.2.0#count"));
        check("ping", Ok("plain#ping"));
        check("plain.ping", Ok("plain#ping"));
    }

    #[test]
    fn names_that_do_not() {
        check(
            "add",
            Err(
                "`add` means several functions: `shop:orders/cart@1.2.0#add`, `shop:orders/stock@1.2.0#add`; \
                 give one of these names",
            ),
        );
        let known = "`greet`, `shop:orders/cart@1.2.0#add`, `shop:orders/cart@1.2.0#greet`, \
                     `shop:orders/stock@1.2.0#add`, `shop:orders/stock@1.2.0#count`, `plain#ping`";
        for wanted in ["cart", "shop:orders/cart@1.3.0#add", "cart.", "", "cart.count", "orders/cart.add"] {
            check(wanted, Err(&format!("there is no function `{wanted}`; there is {known}")));
        }
        let none: [Function<()>; 0] = [];
        let error = find(&none, "x").map(drop).unwrap_err().to_string();
        assert_eq!(error, "there is no function `x`; there is nothing");
        let many: Vec<_> =
            (0..11).map(|n| Function { interface: None, name: n.to_string(), ty: () }).collect();
        let error = find(&many, "x").map(drop).unwrap_err().to_string();
        assert!(error.ends_with("`6`, `7` and 3 more"), "{error}");
    }
}
