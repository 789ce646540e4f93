//! `#[component]` on a struct (how it is built), on its impl block (its listeners and hooks), and
//! on a trait (which components can provide).
//! Not here: the order in which components are built, and any check that needs the whole program.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, Field, Fields, Generics, ImplItem, ImplItemFn, Item, ItemImpl,
    ItemStruct, ItemTrait,
};
use syn::{Result, Type, parse_quote};

use crate::attr::{self, Args, Mistakes};
use crate::listener::{self, Declared};

/// Which part of a component's life a method is.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Listener,
    PostConstruct,
    PreDestroy,
}

impl Role {
    fn of(attribute: &Attribute) -> Option<Self> {
        let last = attribute.path().segments.last()?;
        match last.ident.to_string().as_str() {
            "mq_listener" => Some(Role::Listener),
            "post_construct" => Some(Role::PostConstruct),
            "pre_destroy" => Some(Role::PreDestroy),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Listener => "listener",
            Role::PostConstruct => "`post_construct` hook",
            Role::PreDestroy => "`pre_destroy` hook",
        }
    }
}

pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Struct(structure)) => expand_struct(arguments, structure),
        Ok(Item::Impl(block)) => expand_impl(&arguments, block),
        Ok(Item::Trait(contract)) => expand_trait(&arguments, &contract),
        _ => {
            let text = "`#[component]` stands on a struct, on the impl block of one, or on a trait";
            let error = Error::new(Span::call_site(), text).into_compile_error();
            quote! { #item #error }
        }
    }
}

fn expand_struct(arguments: TokenStream, mut structure: ItemStruct) -> TokenStream {
    let definition = struct_definition(arguments, &structure);
    for field in &mut structure.fields {
        field.attrs.retain(|attribute| !attribute.path().is_ident("init"));
    }
    let definition = definition.unwrap_or_else(Error::into_compile_error);
    quote! { #structure #definition }
}

fn struct_definition(arguments: TokenStream, structure: &ItemStruct) -> Result<TokenStream> {
    const KNOWN: &[&str] = &["provided", "provides", "qualifier", "phase"];
    let args = (|input: ParseStream<'_>| Args::parse(input, KNOWN)).parse2(arguments)?;
    check_generics(&structure.generics)?;
    let name = &structure.ident;
    let (needs, build) = match args.flag("provided")? {
        true => (Vec::new(), quote!(::core::option::Option::None)),
        false => (needs(&structure.fields)?, build(structure)?),
    };
    let (provides, phase) = (provides(&args, name)?, args.number("phase")?);
    let (text, place) = (name.to_string(), listener::place(name));
    Ok(quote! {
        const _: () = {
            use ::common_mq::__private as __mq;
            use __mq::Plain as _;
            static __MQ_DEFINITION: __mq::BeanDef = __mq::BeanDef {
                kind: __mq::Kind::Component,
                name: #text,
                key: || __mq::BeanKey::of::<#name, ()>(),
                provides: #provides,
                needs: &[#(#needs),*],
                build: #build,
                methods: || __mq::Probe::<#name>::METHODS,
                phase: #phase,
                place: #place,
            };
            impl __mq::Component for #name {
                fn definition() -> &'static __mq::BeanDef {
                    &__MQ_DEFINITION
                }
            }
            __mq::register!(__mq::Definition::Bean(&__MQ_DEFINITION));
        };
    })
}

fn check_generics(generics: &Generics) -> Result<()> {
    match generics.params.is_empty() {
        true => Ok(()),
        false => Err(Error::new_spanned(
            generics,
            "a component cannot be generic: there is one instance for each type",
        )),
    }
}

/// The trait of `provides = dyn Trait`.
fn provides(args: &Args, name: &Ident) -> Result<TokenStream> {
    let qualifier = args.path("qualifier", "Marker")?;
    let Some(contract) = args.dynamic("provides")? else {
        return match qualifier {
            None => Ok(quote!(::core::option::Option::None)),
            Some(qualifier) => Err(Error::new_spanned(
                qualifier,
                "a component is the only one of its type; `qualifier` tells apart what \
                 `provides = dyn Trait` of several provides",
            )),
        };
    };
    let qualifier = qualifier.map_or_else(|| quote!(()), ToTokens::to_token_stream);
    let shared = quote_spanned! {contract.span()=>
        let __mq_shared: ::std::sync::Arc<#contract> =
            __mq_scope.ext::<#name, ()>()?.into_shared();
    };
    Ok(quote! {
        ::core::option::Option::Some(__mq::Provided {
            key: __mq::BeanKey::of::<#contract, #qualifier>(),
            instance: |__mq_scope| {
                #shared
                ::core::option::Option::Some(__mq::Instance::new(__mq_shared))
            },
        })
    })
}

fn expand_trait(arguments: &TokenStream, contract: &ItemTrait) -> TokenStream {
    let definition = trait_definition(arguments, contract);
    let definition = definition.unwrap_or_else(Error::into_compile_error);
    quote! { #contract #definition }
}

fn trait_definition(arguments: &TokenStream, contract: &ItemTrait) -> Result<TokenStream> {
    if !arguments.is_empty() {
        let text = "`#[component]` on a trait takes no arguments";
        return Err(Error::new_spanned(arguments, text));
    }
    check_generics(&contract.generics)?;
    let name = &contract.ident;
    let (text, place) = (format!("dyn {name}"), listener::place(name));
    let contract = quote_spanned!(name.span()=> dyn #name);
    Ok(quote! {
        const _: () = {
            use ::common_mq::__private as __mq;
            static __MQ_DEFINITION: __mq::BeanDef = __mq::BeanDef {
                kind: __mq::Kind::Trait,
                name: #text,
                key: || __mq::BeanKey::of::<#contract, ()>(),
                provides: ::core::option::Option::None,
                needs: &[],
                build: ::core::option::Option::None,
                methods: || __mq::NO_METHODS,
                phase: 0,
                place: #place,
            };
            impl __mq::Component for #contract {
                fn definition() -> &'static __mq::BeanDef {
                    &__MQ_DEFINITION
                }
            }
        };
    })
}

/// What the fields ask for; fields with `#[init]` ask for nothing.
fn needs(fields: &Fields) -> Result<Vec<TokenStream>> {
    let mut needs = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        if init(field)?.is_some() {
            continue;
        }
        let name = field.ident.as_ref().map_or_else(|| at.to_string(), Ident::to_string);
        let (conditions, need) = (attr::conditions(&field.attrs), need(&name, &field.ty));
        needs.push(quote!(#(#conditions)* #need));
    }
    Ok(needs)
}

/// What a field or parameter asks for.
pub(crate) fn need(name: &str, ty: &Type) -> TokenStream {
    quote_spanned! {ty.span()=>
        ::common_mq::__private::Injected {
            name: #name,
            need: <#ty as ::common_mq::__private::Inject>::NEED,
        }
    }
}

/// The expression of `#[init]` (the type's default) or `#[init(expression)]`.
fn init(field: &Field) -> Result<Option<Expr>> {
    let Some(attribute) = field.attrs.iter().find(|attribute| attribute.path().is_ident("init"))
    else {
        return Ok(None);
    };
    match &attribute.meta {
        syn::Meta::Path(_) => Ok(Some(parse_quote!(::core::default::Default::default()))),
        _ => attribute.parse_args().map(Some),
    }
}

fn build(structure: &ItemStruct) -> Result<TokenStream> {
    let mut values = Vec::new();
    for field in &structure.fields {
        let ty = &field.ty;
        let value = match init(field)? {
            Some(expression) => expression.into_token_stream(),
            None => quote_spanned! {ty.span()=>
                <#ty as ::common_mq::__private::Inject>::inject(__mq_scope)?
            },
        };
        let conditions = attr::conditions(&field.attrs);
        values.push(match &field.ident {
            Some(name) => quote!(#(#conditions)* #name: #value),
            None => quote!(#(#conditions)* #value),
        });
    }
    let name = &structure.ident;
    let value = match structure.fields {
        Fields::Named(_) => quote!(#name { #(#values),* }),
        Fields::Unnamed(_) => quote!(#name(#(#values),*)),
        Fields::Unit => quote!(#name),
    };
    Ok(quote! {
        ::core::option::Option::Some(|__mq_scope| ::std::boxed::Box::pin(async move {
            let _ = __mq_scope;
            ::core::result::Result::Ok(__mq::Instance::new(::std::sync::Arc::new(#value)))
        }))
    })
}

fn expand_impl(arguments: &TokenStream, mut block: ItemImpl) -> TokenStream {
    let methods = impl_definition(arguments, &block);
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            method.attrs.retain(|attribute| Role::of(attribute).is_none());
        }
    }
    let methods = methods.unwrap_or_else(Error::into_compile_error);
    quote! { #block #methods }
}

fn impl_definition(arguments: &TokenStream, block: &ItemImpl) -> Result<TokenStream> {
    check_block(arguments, block)?;
    let owner = &*block.self_ty;
    let mut methods = Methods::default();
    let mut mistakes = Mistakes::default();
    for item in &block.items {
        if let ImplItem::Fn(method) = item {
            mistakes.take(methods.add(method, owner));
        }
    }
    mistakes.finish()?;
    let Methods { definitions, names, visible, post_construct, pre_destroy } = methods;
    Ok(quote! {
        const _: () = {
            use ::common_mq::__private as __mq;
            #(#definitions)*
            impl #owner { #(#visible)* }
            impl __mq::ComponentMethods for #owner {
                const METHODS: &'static __mq::Methods = &__mq::Methods {
                    listeners: &[#(#names),*],
                    post_construct: &[#(#post_construct),*],
                    pre_destroy: &[#(#pre_destroy),*],
                };
            }
        };
    })
}

fn check_block(arguments: &TokenStream, block: &ItemImpl) -> Result<()> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "`#[component]` on an impl takes no arguments"));
    }
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new_spanned(
            path,
            "`#[component]` stands on the type's own impl block, not on the impl of a trait",
        ));
    }
    check_generics(&block.generics)
}

/// What the methods of one impl block contribute, as tokens.
#[derive(Default)]
struct Methods {
    definitions: Vec<TokenStream>,
    names: Vec<TokenStream>,
    visible: Vec<TokenStream>,
    post_construct: Vec<TokenStream>,
    pre_destroy: Vec<TokenStream>,
}

impl Methods {
    fn add(&mut self, method: &ImplItemFn, owner: &Type) -> Result<()> {
        let mut roles = method.attrs.iter().filter_map(|a| Role::of(a).map(|role| (role, a)));
        let Some((role, attribute)) = roles.next() else { return Ok(()) };
        if let Some((_, second)) = roles.next() {
            let text = "a method is one thing: a listener, or one hook";
            return Err(Error::new_spanned(second, text));
        }
        listener::check_receiver(&method.sig, role.name())?;
        match role {
            Role::Listener => self.listener(method, attribute, owner),
            Role::PostConstruct => {
                hook(method, attribute, owner, role).map(|hook| self.post_construct.push(hook))
            }
            Role::PreDestroy => {
                hook(method, attribute, owner, role).map(|hook| self.pre_destroy.push(hook))
            }
        }
    }

    fn listener(&mut self, method: &ImplItemFn, attribute: &Attribute, owner: &Type) -> Result<()> {
        listener::check_signature(&method.sig)?;
        let arguments = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.clone(),
            _ => TokenStream::new(),
        };
        let declared = Declared::parse(arguments)?;
        let name = &method.sig.ident;
        let hidden = listener::hidden_name(name);
        let function = quote!(<#owner>::#name);
        let definition = listener::definition(&declared, &method.sig, &function, Some(owner));
        let conditions = attr::conditions(&method.attrs);
        self.definitions.push(quote! {
            #(#conditions)*
            #[allow(non_upper_case_globals, reason = "named after the listener")]
            const #hidden: &'static __mq::ListenerDef = { #definition &__MQ_DEFINITION };
        });
        let visibility = &method.vis;
        self.visible.push(quote! {
            #(#conditions)*
            #[doc(hidden)]
            #[allow(dead_code, non_upper_case_globals, reason = "named after the listener")]
            #visibility const #hidden: &'static __mq::ListenerDef = #hidden;
        });
        self.names.push(quote!(#(#conditions)* #hidden));
        Ok(())
    }
}

fn hook(
    method: &ImplItemFn,
    attribute: &Attribute,
    owner: &Type,
    role: Role,
) -> Result<TokenStream> {
    attribute.meta.require_path_only().map_err(|_| {
        Error::new_spanned(attribute, format!("a {} takes no arguments", role.name()))
    })?;
    let signature = &method.sig;
    if signature.asyncness.is_none() {
        let text = format!("a {} is an `async fn`; put `async` before `fn`", role.name());
        return Err(Error::new_spanned(signature.fn_token, text));
    }
    if let Some(second) = signature.inputs.iter().nth(1) {
        let text = format!(
            "a {} takes only `&self`; what it needs is a field of the component",
            role.name()
        );
        return Err(Error::new_spanned(second, text));
    }
    let (name, text) = (&signature.ident, signature.ident.to_string());
    let conditions = attr::conditions(&method.attrs);
    let span = match &signature.output {
        syn::ReturnType::Default => name.span(),
        syn::ReturnType::Type(_, ty) => ty.span(),
    };
    let result = quote_spanned! {span=>
        ::common_mq::__private::IntoHookResult::into_hook_result(__mq_output)
    };
    Ok(quote! {
        #(#conditions)*
        __mq::Hook {
            name: #text,
            call: |__mq_scope| ::std::boxed::Box::pin(async move {
                let __mq_owner = __mq::owner::<#owner>(__mq_scope);
                let __mq_output = <#owner>::#name(&__mq_owner).await;
                #result
            }),
        }
    })
}

/// `#[post_construct]` or `#[pre_destroy]` outside a `#[component]` impl, which would have taken
/// it.
pub(crate) fn stray_hook(name: &str, item: &TokenStream) -> TokenStream {
    let text = format!("`#[{name}]` needs `#[component]` on the impl block around the method");
    let error = Error::new(Span::call_site(), text).into_compile_error();
    quote! { #item #error }
}
